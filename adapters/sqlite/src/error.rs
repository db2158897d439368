//! What a database's complaint means to the caller.

use application::ports::StoreError;

/// Trying again may help, or what is stored cannot be read: nothing else is told apart above.
pub(crate) fn store_error(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(database) => match primary_code(database.code().as_deref()) {
            // SQLITE_CORRUPT, SQLITE_MISMATCH, SQLITE_NOTADB; SQLITE_ERROR: the tables are not those of this version;
            // SQLITE_CONSTRAINT: they hold what this version would not have written.
            Some(11 | 20 | 26 | 1 | 19) => StoreError::Corrupt(error.to_string()),
            // Busy, full, read-only, input or output: the world may change.
            _ => StoreError::Unavailable(error.to_string()),
        },
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::RowNotFound => StoreError::Corrupt(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// Extended codes carry the primary one in their low byte.
fn primary_code(code: Option<&str>) -> Option<i32> {
    code?.parse::<i32>().ok().map(|code| code & 0xFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_codes_are_read_by_their_low_byte() {
        assert_eq!(primary_code(Some("2067")), Some(19), "SQLITE_CONSTRAINT_UNIQUE");
        assert_eq!(primary_code(Some("13")), Some(13), "SQLITE_FULL");
        assert_eq!(primary_code(None), None);
    }

    #[test]
    fn what_cannot_be_read_is_corrupt_and_the_rest_is_worth_another_try() {
        assert!(matches!(store_error(sqlx::Error::RowNotFound), StoreError::Corrupt(_)));
        assert!(matches!(store_error(sqlx::Error::PoolTimedOut), StoreError::Unavailable(_)));
    }
}

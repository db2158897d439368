//! `sqlx::migrate!` embeds the migrations; a new one must lead to a new build.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations/sqlite");
}

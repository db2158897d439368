//! `demo.simple_calculation`: two numbers and an operation.

use domain::Failure;
use serde::Deserialize;
use serde_json::Number;

use crate::registry::{Output, TaskTypeSpec};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    x: Number,
    y: Number,
    operation: Operation,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
}

pub(super) fn spec() -> TaskTypeSpec {
    TaskTypeSpec::new(
        "demo.simple_calculation",
        "Adds, subtracts, multiplies or divides two numbers.",
        |_, input: Input| async move { Output::of(&calculate(&input)?) },
    )
    .example(r#"{"x":10,"y":20,"operation":"add"}"#)
}

fn calculate(input: &Input) -> Result<Number, Failure> {
    if let (Some(x), Some(y)) = (input.x.as_i64(), input.y.as_i64()) {
        let exact = match input.operation {
            Operation::Add => x.checked_add(y),
            Operation::Subtract => x.checked_sub(y),
            Operation::Multiply => x.checked_mul(y),
            Operation::Divide => x.checked_rem(y).filter(|rest| *rest == 0).and_then(|_| x.checked_div(y)),
        };
        if let Some(exact) = exact {
            return Ok(exact.into());
        }
    }
    let number = |value: &Number| value.as_f64().unwrap_or(f64::NAN);
    let (x, y) = (number(&input.x), number(&input.y));
    let result = match input.operation {
        Operation::Add => x + y,
        Operation::Subtract => x - y,
        Operation::Multiply => x * y,
        Operation::Divide if y == 0.0 => {
            let message = format!("cannot divide {} by zero; give a y other than 0", input.x);
            return Err(Failure::permanent("division_by_zero", message));
        }
        Operation::Divide => x / y,
    };
    Number::from_f64(result).ok_or_else(|| {
        let message =
            format!("{:?} of {} and {} is too large for a number", input.operation, input.x, input.y);
        Failure::permanent("out_of_range", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(x: &str, y: &str, operation: &str) -> Result<String, String> {
        let input = format!(r#"{{"x":{x},"y":{y},"operation":"{operation}"}}"#);
        let input = serde_json::from_str(&input).expect("a valid input");
        calculate(&input).map(|number| number.to_string()).map_err(|failure| failure.code)
    }

    #[test]
    fn results_are_exact_where_they_can_be() {
        for (x, y, operation, expected) in [
            ("10", "20", "add", "30"),
            ("10", "20", "subtract", "-10"),
            ("6", "7", "multiply", "42"),
            ("42", "6", "divide", "7"),
            ("1", "4", "divide", "0.25"),
            ("0.5", "0.25", "add", "0.75"),
            ("9223372036854775807", "1", "add", "9223372036854775808.0"),
            ("-9223372036854775808", "-1", "divide", "9223372036854775808.0"),
        ] {
            let actual = result(x, y, operation).expect("a result");
            let (actual, expected): (f64, f64) =
                (actual.parse().expect("a number"), expected.parse().expect("a number"));
            assert_eq!(actual, expected, "{x} {operation} {y}");
        }
        assert_eq!(result("10", "20", "add").expect("a result"), "30");
    }

    #[test]
    fn what_has_no_result_is_a_precise_failure() {
        assert_eq!(result("1", "0", "divide").expect_err("no result"), "division_by_zero");
        assert_eq!(result("0.0", "0", "divide").expect_err("no result"), "division_by_zero");
        assert_eq!(result("1e308", "10", "multiply").expect_err("no result"), "out_of_range");
    }
}

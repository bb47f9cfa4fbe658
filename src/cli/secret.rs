//! What is asked of a person: passwords, which don't show and never come from arguments, where other users of the machine and the
//! shell's history would see them.

use std::io::{self, BufRead, IsTerminal, Write};

use super::CliError;
use crate::model::limits::PASSWORD_BYTES_MAX;

/// A new password: typed twice at a terminal, else the first line of standard input.
pub(super) fn new_password() -> Result<String, CliError> {
    if !io::stdin().is_terminal() {
        return first_line(&mut io::stdin().lock());
    }
    let ask = |prompt: &str| {
        rpassword::prompt_password(prompt).map_err(|source| CliError::Process { what: "ask for a password", source })
    };
    let password = ask("Password: ")?;
    if ask("Again: ")? == password { Ok(password) } else { Err(CliError::PasswordsDiffer) }
}

fn first_line(input: &mut impl BufRead) -> Result<String, CliError> {
    let failed = |source| CliError::Process { what: "read a password from standard input", source };
    let mut line = String::new();
    // One that is too long is refused by whoever looks at it.
    io::Read::take(input, PASSWORD_BYTES_MAX as u64 + 3).read_line(&mut line).map_err(failed)?;
    let password = line.strip_suffix('\n').unwrap_or(&line);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() { Err(CliError::NoPassword) } else { Ok(password.to_owned()) }
}

/// What is typed after a question.
pub(super) fn answer(question: &str) -> Result<String, CliError> {
    let failed = |source| CliError::Process { what: "ask", source };
    eprint!("{question}");
    io::stderr().flush().map_err(failed)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(failed)?;
    Ok(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_with_its_spaces() {
        for (input, expected) in [("secret\n", "secret"), (" a b \r\nmore\n", " a b "), ("no end", "no end")] {
            assert_eq!(first_line(&mut input.as_bytes()).unwrap(), expected);
        }
        for input in ["", "\n", "\r\n"] {
            assert!(matches!(first_line(&mut input.as_bytes()), Err(CliError::NoPassword)));
        }
        let long = "x".repeat(1 << 20);
        assert_eq!(first_line(&mut long.as_bytes()).unwrap().len(), PASSWORD_BYTES_MAX + 3);
    }
}

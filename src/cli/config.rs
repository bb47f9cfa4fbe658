//! `pinnace config`: every key, its value, and where that comes from.

use serde_json::Value;

use super::CliError;
use super::client::{ControlError, ProcessArguments};
use super::output::{clean, print, print_json, table};
use crate::config::Setting;

/// `pinnace config …`
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show every key with its value and where that comes from: of the running pinnace, or of one that would be started with the
    /// same flags and variables. Secrets are hidden
    Show(Show),
}

/// Flags of `pinnace config show`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Print the keys as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// Runs the command.
pub(super) fn run(Command::Show(Show { json, process }): &Command) -> Result<(), CliError> {
    let (answer, whose) = match process.client()?.get("/v1/config", &[]) {
        Ok(answer) => (answer, "of the running pinnace"),
        Err(ControlError::NotRunning { .. }) => {
            (process.config()?.shown(), "that a start would have; nothing is running")
        }
        Err(error) => return Err(error.into()),
    };
    if *json {
        return print_json(&answer);
    }
    let settings: Vec<Setting> = serde_json::from_value(answer).map_err(ControlError::Unexpected)?;
    print(&text(&settings, whose))
}

fn text(settings: &[Setting], whose: &str) -> String {
    let row = |setting: &Setting| {
        let value = match &setting.value {
            Value::String(text) => format!("{text:?}"),
            value => value.to_string(),
        };
        vec![clean(&setting.key), clean(&value), format!("# {}", clean(&setting.origin))]
    };
    let rows: Vec<Vec<String>> = settings.iter().map(row).collect();
    format!("The configuration {whose}:\n\n{}\n", table(&rows).join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_shown_with_their_origin() {
        let setting =
            |key: &str, value: Value, origin: &str| Setting { key: key.to_owned(), value, origin: origin.to_owned() };
        let settings =
            [setting("data", "".into(), "the defaults"), setting("pins.active_max", 3.into(), "variable PINNACE_X")];
        let expected = "\
The configuration of the running pinnace:

data             \"\"  # the defaults
pins.active_max  3   # variable PINNACE_X
";
        assert_eq!(text(&settings, "of the running pinnace"), expected);
    }
}

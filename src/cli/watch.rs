//! `pinnace pin show --watch`: how a pin goes, until it is pinned or has failed.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::CliError;
use super::client::Client;
use super::output::{clean, print};
use super::pin::{DETAILS, pin};
use crate::http::admin::pins::Pin;
use crate::model::PinId;
use crate::model::query::Status;

/// How often the process is asked.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Shows the pin: as a bar where somebody looks at it, else as a line for each change.
pub(super) fn run(client: &Client, id: PinId, json: bool) -> Result<(), CliError> {
    let bar = (!json && stderr().is_terminal()).then(bar);
    let mut last = String::new();
    loop {
        let answer = client.look_up(&format!("/v1/pins/{id}"), &[])?;
        let line = if json { answer.to_string() } else { String::new() };
        let pin = pin(answer)?;
        let line = if json { line } else { line_of(&pin) };
        let is_over = pin.status == Status::Pinned.as_str() || pin.status == Status::Failed.as_str();
        match &bar {
            Some(bar) if !is_over => move_bar(bar, &pin),
            _ => {
                if let Some(bar) = &bar {
                    bar.finish_and_clear();
                }
                if line != last {
                    print(&format!("{line}\n"))?;
                    last = line;
                }
            }
        }
        if is_over {
            return if pin.status == Status::Pinned.as_str() { Ok(()) } else { Err(CliError::PinFailed) };
        }
        std::thread::sleep(ASK_EVERY);
    }
}

fn line_of(pin: &Pin) -> String {
    format!("{}: {}", clean(&pin.status), clean(pin.info.get(DETAILS).map_or("-", String::as_str)))
}

fn bar() -> ProgressBar {
    // Built in, so it is well-formed; the default would do as well.
    let style = ProgressStyle::with_template("[{bar:32}] {pos}/{len} blocks  {wide_msg}");
    let bar = ProgressBar::new(1);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar
}

fn move_bar(bar: &ProgressBar, pin: &Pin) {
    let figure = |key: &str| pin.info.get(key).and_then(|text| text.parse().ok());
    bar.set_length(figure("blocks_known").unwrap_or(1));
    bar.set_position(figure("blocks_fetched").unwrap_or(0));
    bar.set_message(line_of(pin));
}

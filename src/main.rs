//! The binary: hands the command line to `cli` and turns an error into one line and an exit status.

use std::io::{self, Write};
use std::process::ExitCode;

use pinnace::cli;

fn main() -> ExitCode {
    match cli::run(cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where nobody reads it, the exit status has to do.
            let _ = writeln!(io::stderr(), "error: {}", cli::one_line(&error));
            ExitCode::FAILURE
        }
    }
}

//! The binary: hands the command line to `cli` and turns an error into one line and an exit status.

use std::process::ExitCode;

use pinnace::cli;

fn main() -> ExitCode {
    match cli::run(cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", cli::one_line(&error));
            ExitCode::FAILURE
        }
    }
}

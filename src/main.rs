//! The binary: hands the command line to `cli` and turns an error into one line and an exit status.

use std::io::{self, Write};
use std::process::ExitCode;

use mimalloc::MiMalloc;
use pinnace::cli;

/// Blocks come and go by the megabyte: the system's allocator gives such pieces back to the kernel each time, which then
/// clears them anew.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

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

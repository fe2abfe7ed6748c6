//! Parse, dispatch, exit code.

fn main() -> std::process::ExitCode {
    cargoextra::cli::run(std::env::args_os())
}

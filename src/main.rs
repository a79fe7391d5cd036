//! The `kmsfs` command: parse and run, nothing else.

fn main() -> std::process::ExitCode {
    kmsfs::cli::run()
}

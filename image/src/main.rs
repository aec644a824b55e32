//! `cargo image`: builds aiOS and runs it. See `--help`.

use std::process::ExitCode;

use aios_image::{bench, build, run, test};
use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};

/// Builds aiOS (kernel, root, daemons, ISO), runs it in QEMU, tests and measures it.
///
/// What is missing on this machine is installed with apt. Slow products are cached by the hash of
/// their inputs below ~/.cache/aios; the ISO is left in build/aios.iso.
#[derive(Debug, Parser)]
#[command(name = "cargo image", bin_name = "cargo image")]
struct Cli {
    #[command(subcommand)]
    command: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Boot aiOS in QEMU and leave you at its console; with --goal, run goals and switch off
    Run(run::RunArgs),
    /// Run every test, those in virtual machines included
    Test(test::TestArgs),
    /// Build the hybrid ISO: `dd` it to a stick, burn it, or attach it to a virtual machine
    Iso,
    /// Measure, beside peers in the same run, and print the table
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8> {
    match cli.command {
        None => {
            Cli::command().print_long_help()?;
            Ok(0)
        }
        Some(Task::Run(args)) => {
            if args.iso().is_some_and(|iso| !iso.exists()) {
                anyhow::bail!(
                    "there is no file {}; leave --iso out to build one",
                    args.iso()
                        .map(|iso| iso.display().to_string())
                        .unwrap_or_default()
                );
            }
            run::run(&args, &build::build()?)
        }
        Some(Task::Test(args)) => test::test(&args),
        Some(Task::Iso) => {
            let product = build::build()?;
            println!("{}", product.iso.display());
            Ok(0)
        }
        Some(Task::Bench(args)) => bench::bench(&args),
    }
}

//! `cargo image bench`: measurements beside a peer in the same run, printed as ratios.

mod audited_call;
mod boot;
mod memory;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::{build, command};

/// The options of `cargo image bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Which: boot, tools, memory (all when left out)
    names: Vec<String>,
    /// Print the rows as JSON
    #[arg(long)]
    json: bool,
}

/// One figure of ours beside the peer's.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What is measured.
    pub what: String,
    /// Unit of both figures.
    pub unit: &'static str,
    /// Ours.
    pub ours: f64,
    /// The peer's, when there is one.
    pub peer: Option<f64>,
    /// Who the peer is.
    pub peer_name: &'static str,
    /// Ours divided by the peer's: below 1 is better for us.
    pub ratio: Option<f64>,
}

impl Row {
    /// A row with its ratio.
    #[must_use]
    pub fn new(
        what: impl Into<String>,
        unit: &'static str,
        ours: f64,
        peer: Option<(f64, &'static str)>,
    ) -> Self {
        Self {
            what: what.into(),
            unit,
            ours,
            peer: peer.map(|(figure, _)| figure),
            peer_name: peer.map_or("", |(_, name)| name),
            ratio: peer.map(|(figure, _)| ours / figure),
        }
    }
}

/// Runs the benchmarks and prints the table.
///
/// # Errors
/// When a benchmark is not known or fails.
pub fn bench(args: &BenchArgs) -> Result<u8> {
    const ALL: [&str; 3] = ["boot", "tools", "memory"];
    let names: Vec<&str> = if args.names.is_empty() {
        ALL.to_vec()
    } else {
        args.names.iter().map(String::as_str).collect()
    };
    if let Some(unknown) = names.iter().find(|name| !ALL.contains(name)) {
        bail!(
            "there is no benchmark `{unknown}`; there are: {}",
            ALL.join(", ")
        );
    }
    let product = build::build()?;
    let mut rows = Vec::new();
    for name in names {
        command::say(format!("Measuring {name} …"));
        match name {
            "boot" => rows.extend(boot::measure(&product)?),
            "tools" => rows.extend(audited_call::measure()?),
            _ => rows.extend(memory::measure(&product)?),
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print_table(&rows);
    }
    Ok(0)
}

fn print_table(rows: &[Row]) {
    println!(
        "{:<44} {:>12} {:>12} {:>7}  {:<6} peer",
        "what", "ours", "peer", "ratio", "unit"
    );
    for row in rows {
        let peer = row
            .peer
            .map_or_else(|| "-".to_owned(), |figure| format!("{figure:.2}"));
        let ratio = row
            .ratio
            .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        println!(
            "{:<44} {:>12.2} {peer:>12} {ratio:>7}  {:<6} {}",
            row.what, row.ours, row.unit, row.peer_name
        );
    }
}

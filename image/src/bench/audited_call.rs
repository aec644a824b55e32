//! A recorded, authorised `fs.stat` through the real registry daemon, beside an echo that does
//! nothing, over the same kind of socket in the same run.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{bench::Row, binaries};

#[derive(Debug, Deserialize)]
struct Report {
    echo_p50_us: f64,
    echo_p99_us: f64,
    call_p50_us: f64,
    call_p99_us: f64,
}

/// Runs the measuring program of the tools crate and reads its report.
pub(super) fn measure() -> Result<Vec<Row>> {
    let output = binaries::cargo()?
        .args([
            "run",
            "--release",
            "--locked",
            "--quiet",
            "--package",
            "aios-tools",
            "--example",
            "audited_call",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    anyhow::ensure!(
        output.status.success(),
        "the measuring program failed: {}",
        output.status
    );
    let report: Report = serde_json::from_slice(&output.stdout)
        .context("the measuring program printed no report")?;
    Ok(vec![
        Row::new(
            "audited fs.stat, p50",
            "µs",
            report.call_p50_us,
            Some((report.echo_p50_us, "bare tonic echo")),
        ),
        Row::new(
            "audited fs.stat, p99",
            "µs",
            report.call_p99_us,
            Some((report.echo_p99_us, "bare tonic echo")),
        ),
    ])
}

//! Resident memory of all daemons and agents, the model's process left out, as the machine itself
//! reports it.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    bench::Row,
    build::Product,
    command, enrolment, run,
    vm::{Options, Vm},
};

/// Boots a machine and adds up what its processes use.
pub(super) fn measure(product: &Product) -> Result<Vec<Row>> {
    let mut vm = Vm::start(&Options::new(&product.iso))?;
    run::wait_ready(&mut vm, |_| {})?;
    let profile = vm.dir().join("profile");
    let aios = product.binaries.aios();
    enrolment::enrol(&aios, &vm, &profile, Duration::from_secs(120))?;
    let text = command::output(
        Command::new(&aios)
            .args(["tool", "call", "process.list", "--json"])
            .env("AIOS_PROFILE", &profile),
    )?;
    let reply: Value = serde_json::from_str(&text).context("aios printed no JSON")?;
    let processes = reply
        .pointer("/result/processes")
        .and_then(Value::as_array)
        .context("process.list gave no processes")?;
    let sum = |wanted: &dyn Fn(&str) -> bool| -> f64 {
        processes
            .iter()
            .filter(|process| {
                process
                    .get("name")
                    .and_then(Value::as_str)
                    .is_some_and(wanted)
            })
            .filter_map(|process| process.get("memory_bytes").and_then(Value::as_f64))
            .sum::<f64>()
            / f64::from(1 << 20)
    };
    let agents = sum(&|name| name.starts_with("aios-agent"));
    // The kernel cuts names to 15 bytes.
    let daemons = sum(&|name| {
        name.starts_with("aios-")
            && !name.starts_with("aios-agent")
            && !name.starts_with("aios-runtime")
    });
    Ok(vec![
        Row::new(
            "resident memory, daemons without the model",
            "MiB",
            daemons,
            None,
        ),
        Row::new("resident memory, eight agents", "MiB", agents, None),
    ])
}

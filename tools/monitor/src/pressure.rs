//! Pressure stall information: for what share of the time work had to wait for a resource.

use std::{fs::File, io::BufReader, path::Path};

use procfs::PressureRecord;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The share of the time, in percent, in which work waited for a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pressure {
    /// Some work waited, over the last 10 seconds.
    pub some_10s: f64,
    /// Some work waited, over the last minute.
    pub some_60s: f64,
    /// Some work waited, over the last five minutes.
    pub some_300s: f64,
    /// All work waited, over the last 10 seconds.
    pub full_10s: f64,
    /// All work waited, over the last minute.
    pub full_60s: f64,
    /// All work waited, over the last five minutes.
    pub full_300s: f64,
}

/// The pressure on `cpu`, `memory` or `io`; `None` where the kernel does not measure it.
pub(crate) fn of(resource: &str) -> Option<Pressure> {
    read(&Path::new("/proc/pressure").join(resource))
}

fn read(path: &Path) -> Option<Pressure> {
    let reader = BufReader::new(File::open(path).ok()?);
    let (some, full) = procfs::get_pressure(reader).ok()?;
    Some(from(&some, &full))
}

fn from(some: &PressureRecord, full: &PressureRecord) -> Pressure {
    let rounded = |value: f32| (f64::from(value) * 100.0).round() / 100.0;
    Pressure {
        some_10s: rounded(some.avg10),
        some_60s: rounded(some.avg60),
        some_300s: rounded(some.avg300),
        full_10s: rounded(full.avg10),
        full_60s: rounded(full.avg60),
        full_300s: rounded(full.avg300),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        std::fs::write(
            &path,
            "some avg10=1.50 avg60=0.20 avg300=0.03 total=12345\nfull avg10=0.70 avg60=0.10 avg300=0.00 total=99\n",
        )
        .unwrap();
        let pressure = read(&path).unwrap();
        assert_eq!((pressure.some_10s, pressure.full_10s), (1.5, 0.7));
        std::fs::write(&path, "garbage").unwrap();
        assert_eq!(read(&path), None);
        assert_eq!(read(&dir.path().join("none")), None);
    }
}

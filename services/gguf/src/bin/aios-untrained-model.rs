//! Writes the stand-in model and its manifest into the directory that is named on the command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let (Some(dir), None) = (args.next(), args.next()) else {
        bail!("usage: aios-untrained-model OUTDIR");
    };
    let dir = PathBuf::from(dir);
    let entry = aios_gguf::untrained::write(&dir)
        .with_context(|| format!("cannot write the model into {}", dir.display()))?;
    println!("{}  {}", entry.sha256, dir.join(entry.file).display());
    Ok(())
}

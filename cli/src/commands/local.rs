//! Commands that talk to no machine: completions, profiles, and the keys for sshd.

use std::{fs, io};

use clap::CommandFactory as _;
use serde_json::json;

use crate::{
    cli::{Cli, Global, ProfileCommand},
    connect::Target,
    failure::{Exit, Failure},
    output,
    profile::{self, Profile},
    texts,
};

pub(crate) fn completions(shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "aios", &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end());
    Ok(Exit::Ok)
}

/// The public keys that may log in, for sshd. That there are none is no error.
pub(crate) fn ssh_keys(global: &Global) -> Result<Exit, Failure> {
    let path = global.state.join("ssh").join("authorized_keys");
    match fs::read_to_string(&path) {
        Ok(text) => output::line(text.trim_end()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::file(&path, &error)),
    }
    Ok(Exit::Ok)
}

pub(crate) fn profiles(global: &Global, command: &ProfileCommand) -> Result<Exit, Failure> {
    match command {
        ProfileCommand::List => list(global),
        ProfileCommand::Show { name } => show(global, name.as_deref()),
    }
}

fn list(global: &Global) -> Result<Exit, Failure> {
    let root = profile::root().ok_or_else(|| Failure::usage("HOME is not set"))?;
    let mut found = Vec::new();
    match fs::read_dir(&root) {
        Ok(entries) => {
            for entry in entries.flatten() {
                if let Ok(profile) = Profile::read(&entry.path()) {
                    found.push((entry.file_name().to_string_lossy().into_owned(), profile));
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::file(&root, &error)),
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    if global.json {
        let profiles: Vec<_> = found
            .iter()
            .map(|(name, profile)| {
                json!({
                    "profile": name,
                    "endpoint": profile.endpoint,
                    "name": profile.name,
                    "role": profile.role,
                })
            })
            .collect();
        output::json(&json!({ "profiles": profiles }));
    } else {
        let rows: Vec<Vec<String>> = found
            .into_iter()
            .map(|(name, profile)| vec![name, profile.endpoint, profile.name, profile.role])
            .collect();
        output::line(texts::table(&["PROFILE", "MACHINE", "NAME", "ROLE"], &rows));
    }
    Ok(Exit::Ok)
}

fn show(global: &Global, name: Option<&str>) -> Result<Exit, Failure> {
    let dir = match name {
        Some(name) => profile::directory(name)?,
        None => match Target::choose(global)? {
            Target::Remote(dir) => dir,
            Target::Local(socket) => {
                output::line(format!("this machine ({})", socket.display()));
                return Ok(Exit::Ok);
            }
        },
    };
    let profile = Profile::read(&dir)?;
    if global.json {
        output::json(&json!({ "directory": dir, "profile": profile }));
    } else {
        output::line(format!(
            "{}\n  machine  {}\n  name     {} ({})",
            dir.display(),
            profile.endpoint,
            profile.name,
            profile.role
        ));
    }
    Ok(Exit::Ok)
}

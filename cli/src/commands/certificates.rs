//! Client certificates and SSH keys.

use std::{fs, io::Read as _, path::Path};

use aios_proto::v1::{
    AuthorizeSshKeyRequest, Empty, IssueCertificateRequest, RevokeCertificateRequest,
};
use serde_json::json;

use super::connect;
use crate::{
    cli::{CertCommand, Global, SshKeyCommand},
    connect::repeatable,
    enrol,
    failure::{Exit, Failure},
    output,
    profile::{self, NewProfile},
    texts,
};

/// Longest key file that is read, in bytes.
const MAX_KEY_BYTES: u64 = 64 << 10;

pub(crate) async fn run(global: &Global, command: CertCommand) -> Result<Exit, Failure> {
    let machine = connect(global).await?;
    match command {
        CertCommand::Issue {
            name,
            role,
            days,
            out,
            endpoint,
        } => {
            let endpoint = endpoint.unwrap_or_else(|| machine.endpoint.clone());
            if endpoint.is_empty() {
                return Err(Failure::usage("--endpoint HOST:PORT is missing").hint(
                    "it is where the new client will reach this machine, usually port 9090",
                ));
            }
            let asked = enrol::ask()?;
            let reply = machine
                .management()
                .issue_certificate(IssueCertificateRequest {
                    csr_pem: asked.csr_pem,
                    name: name.clone(),
                    role: role.clone(),
                    days,
                })
                .await?
                .into_inner();
            profile::write(
                &out,
                &NewProfile {
                    endpoint: &endpoint,
                    name: &name,
                    role: &role,
                    authority_pem: &reply.authority_pem,
                    certificate_pem: &reply.certificate_pem,
                    key_pem: &asked.key_pem,
                },
            )?;
            if global.json {
                output::json(&json!({
                    "serial": reply.serial,
                    "not_after_ms": reply.not_after_ms,
                    "profile": out,
                }));
            } else {
                output::line(format!(
                    "certificate {} for {name} ({role}), valid until {}; the profile is in {}",
                    reply.serial,
                    texts::time(reply.not_after_ms),
                    out.display()
                ));
            }
        }
        CertCommand::List => {
            let reply = repeatable(|| {
                let mut client = machine.management();
                async move { client.list_certificates(Empty {}).await }
            })
            .await?;
            if global.json {
                output::json(&reply);
                return Ok(Exit::Ok);
            }
            let rows: Vec<Vec<String>> = reply
                .certificates
                .into_iter()
                .map(|certificate| {
                    vec![
                        certificate.serial,
                        certificate.name,
                        certificate.role,
                        texts::time(certificate.not_after_ms),
                        if certificate.revoked { "revoked" } else { "" }.to_owned(),
                        certificate.issued_by,
                    ]
                })
                .collect();
            let header = ["SERIAL", "NAME", "ROLE", "VALID UNTIL", "", "ISSUED BY"];
            output::line(texts::table(&header, &rows));
        }
        CertCommand::Revoke { serial, reason } => {
            machine
                .management()
                .revoke_certificate(RevokeCertificateRequest {
                    serial: serial.clone(),
                    reason,
                })
                .await?;
            if global.json {
                output::json(&json!({ "revoked": serial }));
            } else {
                output::line(format!("{serial} counts for nothing any more"));
            }
        }
    }
    Ok(Exit::Ok)
}

pub(crate) async fn ssh_key(global: &Global, command: SshKeyCommand) -> Result<Exit, Failure> {
    let SshKeyCommand::Add { file } = command;
    let public_key = read_key(&file)?;
    let mut client = connect(global).await?.management();
    client
        .authorize_ssh_key(AuthorizeSshKeyRequest { public_key })
        .await?;
    if global.json {
        output::json(&json!({ "added": true }));
    } else {
        output::line("the key may log in as the operator");
    }
    Ok(Exit::Ok)
}

fn read_key(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let result = if file == Path::new("-") {
        std::io::stdin()
            .take(MAX_KEY_BYTES)
            .read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|file| file.take(MAX_KEY_BYTES).read_to_string(&mut text))
    };
    result.map_err(|error| Failure::file(file, &error))?;
    Ok(text)
}

//! `net.http_request`: one request over HTTP or HTTPS.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use aios_tool_api::{Capability, Context, Risk, Spec, Tool, ToolError, ToolErrorKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ureq::{
    Agent, ResponseExt as _,
    http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header::HeaderMap},
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
    unversioned::transport::DefaultConnector,
};

use crate::{
    guard::{Blocked, GuardedResolver},
    host,
};

/// Bytes of the answer's body that are kept.
const MAX_BODY: usize = 64 << 10;
/// Largest body of a request.
const MAX_REQUEST_BODY: usize = 1 << 20;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// Redirects that are followed.
const MAX_REDIRECTS: u32 = 5;
/// Longest wait for the whole exchange.
const LIMIT: Duration = Duration::from_secs(30);
/// The certificate authorities that the system trusts.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Headers that the connection itself needs and that a caller may not set.
const RESERVED: [&str; 6] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
];

/// Arguments of `net.http_request`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpArgs {
    /// Address, beginning with `http://` or `https://`.
    #[schemars(extend("format" = "url"))]
    pub url: String,
    /// GET (when left out), HEAD, POST, PUT, PATCH, DELETE or OPTIONS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Headers of the request, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Body of the request, for POST, PUT and PATCH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpReply {
    /// HTTP status, e.g. 200. A status of 400 and above is a result, not an error.
    pub status: u16,
    /// Where the answer came from, after redirects.
    pub url: String,
    /// Headers of the answer, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The beginning of the body as text; bytes that are no UTF-8 are replaced.
    pub body: String,
    /// Whether the body was longer than what is kept.
    pub truncated: bool,
    /// Milliseconds from the request to the end of the answer.
    pub duration_ms: u64,
}

fn method(args: &HttpArgs) -> Result<Method, ToolError> {
    let name = args.method.as_deref().unwrap_or("GET");
    match name {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => {
            Method::from_bytes(name.as_bytes())
                .map_err(|_| ToolError::invalid("`method` is no method"))
        }
        _ => Err(ToolError::invalid(format!(
            "`{}` is not a method that can be used",
            name.chars().take(20).collect::<String>().escape_debug()
        ))
        .hint("use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS")),
    }
}

fn reads_only(args: &HttpArgs) -> bool {
    matches!(args.method.as_deref(), None | Some("GET" | "HEAD"))
}

/// The parts of an address that decide where a request goes.
struct Target {
    uri: Uri,
    host: String,
    port: u16,
}

fn target(url: &str) -> Result<Target, ToolError> {
    let shown = || {
        url.chars()
            .take(200)
            .collect::<String>()
            .escape_debug()
            .to_string()
    };
    let uri: Uri = url
        .parse()
        .map_err(|error| ToolError::invalid(format!("`{}` is not an address: {error}", shown())))?;
    let default_port = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => {
            return Err(
                ToolError::invalid(format!("`{}` is neither http nor https", shown()))
                    .hint("write the whole address, e.g. `http://127.0.0.1/`"),
            );
        }
    };
    let authority = uri
        .authority()
        .ok_or_else(|| ToolError::invalid(format!("`{}` names no host", shown())))?;
    if authority.as_str().contains('@') {
        return Err(
            ToolError::invalid("the address contains a user name or password").hint(
                "send credentials in the header `authorization`, which the ledger does not keep",
            ),
        );
    }
    let host = host::canonical(authority.host())?;
    let port = authority.port_u16().unwrap_or(default_port);
    Ok(Target { host, port, uri })
}

fn headers(given: &BTreeMap<String, String>) -> Result<HeaderMap, ToolError> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
            ToolError::invalid(format!(
                "`{}` is not the name of a header",
                name.escape_debug()
            ))
        })?;
        if RESERVED.contains(&parsed.as_str()) {
            return Err(ToolError::invalid(format!(
                "the header `{parsed}` cannot be set"
            )));
        }
        let value = HeaderValue::from_str(value).map_err(|_| {
            ToolError::invalid(format!("the value of the header `{parsed}` is not valid"))
        })?;
        headers.insert(parsed, value);
    }
    Ok(headers)
}

/// The authorities of the system's bundle.
fn authorities(path: &Path) -> Result<RootCerts, ToolError> {
    let pem = std::fs::read(path).map_err(|error| {
        ToolError::io(
            format!("cannot read the trusted authorities {}", path.display()),
            &error,
        )
        .hint("install the package ca-certificates")
    })?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    Ok(RootCerts::new_with_certs(&certificates))
}

fn agent(https: bool, context: &Context) -> Result<Agent, ToolError> {
    let mut tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
    // A plain address may still redirect to an encrypted one; without a bundle that fails there.
    let bundle = context.root.join(AUTHORITIES.trim_start_matches('/'));
    if https || bundle.exists() {
        tls = tls.root_certs(authorities(&bundle)?);
    } else {
        tls = tls.root_certs(RootCerts::new_with_certs(&[]));
    }
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(MAX_REDIRECTS)
        .max_idle_connections(0)
        .user_agent("aiOS")
        .timeout_global(Some(context.remaining().min(LIMIT)))
        .tls_config(tls.build())
        .build();
    Ok(Agent::with_parts(
        config,
        DefaultConnector::default(),
        GuardedResolver::default(),
    ))
}

fn describe(error: ureq::Error, host: &str) -> ToolError {
    use ureq::Error as E;
    match error {
        E::Other(inner) => match inner.downcast::<Blocked>() {
            Ok(blocked) => ToolError::new(ToolErrorKind::Permission, blocked.to_string()),
            Err(inner) => ToolError::new(ToolErrorKind::Network, inner.to_string()),
        },
        E::Timeout(_) => ToolError::new(
            ToolErrorKind::Timeout,
            format!("{host} did not answer in time"),
        ),
        E::HostNotFound => ToolError::new(
            ToolErrorKind::Network,
            format!("{host} is not a known host"),
        )
        .hint("check the name, and net.interfaces for a working network"),
        E::TooManyRedirects => ToolError::new(
            ToolErrorKind::Network,
            format!("{host} redirected more than {MAX_REDIRECTS} times"),
        )
        .with_retryable(false),
        E::Io(error) => {
            let mut described = ToolError::io(format!("the exchange with {host} failed"), &error);
            if described.kind == ToolErrorKind::Filesystem {
                described.kind = ToolErrorKind::Network;
            }
            described
        }
        E::Rustls(error) => ToolError::new(
            ToolErrorKind::Network,
            format!("no secure connection to {host}: {error}"),
        )
        .with_retryable(false),
        other => ToolError::new(
            ToolErrorKind::Network,
            format!("the exchange with {host} failed: {other}"),
        ),
    }
}

fn answer(
    mut response: Response<ureq::Body>,
    begin: Instant,
    host: &str,
    context: &Context,
) -> Result<HttpReply, ToolError> {
    let limit = MAX_BODY.min(context.output_limit / 2);
    let url = response.get_uri().to_string();
    let mut headers = BTreeMap::new();
    let mut left = limit;
    for (name, value) in response.headers() {
        let text = String::from_utf8_lossy(value.as_bytes());
        left = left.saturating_sub(name.as_str().len() + text.len());
        if left == 0 {
            break;
        }
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|all: &mut String| {
                all.push_str(", ");
                all.push_str(&text);
            })
            .or_insert_with(|| text.into_owned());
    }
    let mut body = Vec::new();
    let mut reader = response.body_mut().as_reader();
    let mut chunk = vec![0; 8 << 10];
    while body.len() <= limit {
        context.check_alive()?;
        let count = reader.read(&mut chunk).map_err(|error| {
            if error.kind() == std::io::ErrorKind::TimedOut {
                return ToolError::new(
                    ToolErrorKind::Timeout,
                    format!("{host} did not finish its answer in time"),
                );
            }
            ToolError::new(
                ToolErrorKind::Network,
                format!("the answer of {host} broke off: {error}"),
            )
        })?;
        match chunk.get(..count) {
            Some(bytes) if !bytes.is_empty() => body.extend_from_slice(bytes),
            _ => break,
        }
    }
    let truncated = body.len() > limit;
    body.truncate(limit);
    Ok(HttpReply {
        status: response.status().as_u16(),
        url,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
        truncated,
        duration_ms: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// `net.http_request`
#[derive(Debug, Clone, Copy)]
pub struct HttpRequest;

impl Tool for HttpRequest {
    type Args = HttpArgs;
    type Output = HttpReply;

    fn spec(&self) -> Spec {
        Spec {
            name: "net.http_request",
            summary: "Send an HTTP or HTTPS request and show status, headers and the beginning of \
                      the body. Methods other than GET and HEAD can change things elsewhere.",
            risk: Risk::Low,
            undo: None,
            idempotent: false,
            deadline: Duration::from_secs(45),
            capability: ("net", "http_request"),
        }
    }

    fn normalise(&self, args: HttpArgs, _: &Context) -> Result<HttpArgs, ToolError> {
        let args = HttpArgs {
            method: args
                .method
                .map(|method| method.to_ascii_uppercase())
                .filter(|method| method != "GET"),
            headers: args
                .headers
                .map(|headers| {
                    headers
                        .into_iter()
                        .map(|(name, value)| (name.to_ascii_lowercase(), value))
                        .collect::<BTreeMap<_, _>>()
                })
                .filter(|headers| !headers.is_empty()),
            ..args
        };
        method(&args)?;
        let with_body = matches!(args.method.as_deref(), Some("POST" | "PUT" | "PATCH"));
        if args.body.is_some() && !with_body {
            return Err(ToolError::invalid("only POST, PUT and PATCH have a body"));
        }
        if args
            .body
            .as_ref()
            .is_some_and(|body| body.len() > MAX_REQUEST_BODY)
        {
            return Err(ToolError::invalid(format!(
                "`body` is longer than {MAX_REQUEST_BODY} bytes"
            )));
        }
        if let Some(given) = &args.headers {
            if given.len() > MAX_HEADERS {
                return Err(ToolError::invalid(format!("at most {MAX_HEADERS} headers")));
            }
            headers(given)?;
        }
        let url = target(&args.url)?.uri.to_string();
        Ok(HttpArgs { url, ..args })
    }

    fn risk(&self, args: &HttpArgs) -> Risk {
        if reads_only(args) {
            Risk::Low
        } else {
            Risk::High
        }
    }

    fn idempotent(&self, args: &HttpArgs) -> bool {
        reads_only(args)
    }

    fn capabilities(&self, args: &HttpArgs) -> Vec<Capability> {
        let needed = Capability::new("net", "http_request");
        // An address that is none gets a resource that no exact pattern names.
        let resource = target(&args.url).map_or_else(
            |_| "-".to_owned(),
            |target| host::with_port(&target.host, target.port),
        );
        vec![needed.on(resource)]
    }

    fn execute(&self, args: &HttpArgs, context: &Context) -> Result<HttpReply, ToolError> {
        context.check_alive()?;
        let target = target(&args.url)?;
        let begin = Instant::now();
        let agent = agent(target.uri.scheme_str() == Some("https"), context)?;
        let mut request = Request::builder().method(method(args)?).uri(target.uri);
        if let Some(all) = request.headers_mut() {
            all.extend(headers(args.headers.as_ref().unwrap_or(&BTreeMap::new()))?);
        }
        let fail =
            |error: ureq::http::Error| ToolError::invalid(format!("no valid request: {error}"));
        let with_body = matches!(args.method.as_deref(), Some("POST" | "PUT" | "PATCH"));
        let response = if with_body {
            agent.run(
                request
                    .body(args.body.clone().unwrap_or_default())
                    .map_err(fail)?,
            )
        } else {
            agent.run(request.body(()).map_err(fail)?)
        };
        let response = response.map_err(|error| describe(error, &target.host))?;
        answer(response, begin, &target.host, context)
    }

    fn redacted(&self) -> &'static [&'static str] {
        &[
            "/body",
            "/headers/authorization",
            "/headers/cookie",
            "/headers/proxy-authorization",
            "/headers/x-api-key",
            "/headers/x-auth-token",
        ]
    }
}

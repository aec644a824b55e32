//! The gRPC service: who calls, may they, what do they want, and the answer.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use aios_kit::{Category, Error, Identities};
use aios_proto::v1::{
    CancelGenerationRequest, EmbedReply, EmbedRequest, Embedding, Empty, GenerateChunk,
    GenerateReply, GenerateRequest, ListModelsReply, LoadModelRequest, ModelInfo,
    RuntimeHealthReply, TokenizeReply, TokenizeRequest, UnloadModelRequest,
    runtime_server::Runtime,
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::server::UdsConnectInfo};

use super::{
    access::{self, Method},
    answer::{collect, unexpected},
    daemon::Daemon,
    request,
    slot::{Event, Ticket},
};
use crate::protocol::{Generated, Outcome};

/// Chunks that a slow reader may leave waiting before its generation's text waits too.
const WAITING_CHUNKS: usize = 64;

/// Running generations that have a name, by the uid of their caller and that name.
type Named = Arc<Mutex<HashMap<(u32, String), CancellationToken>>>;

/// The service.
#[derive(Debug)]
pub struct RuntimeService {
    daemon: Arc<Daemon>,
    identities: Identities,
    named: Named,
}

/// Takes a generation's name away when it ends, however it ends.
#[derive(Debug)]
struct NameGuard {
    named: Named,
    key: (u32, String),
}

impl Drop for NameGuard {
    fn drop(&mut self) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.remove(&self.key);
    }
}

impl RuntimeService {
    /// The service of a daemon.
    #[must_use]
    pub fn new(daemon: Arc<Daemon>, identities: Identities) -> Self {
        Self {
            daemon,
            identities,
            named: Named::default(),
        }
    }

    /// Who calls, if they may: the uid that the kernel says.
    fn admit<T>(&self, request: &Request<T>, method: Method) -> Result<u32, Status> {
        let caller = self.identities.caller_on_behalf(request)?;
        access::check(method, &caller.process, &caller.role).inspect_err(|error| {
            tracing::warn!(%error, "call refused");
        })?;
        request
            .extensions()
            .get::<UdsConnectInfo>()
            .and_then(|info| info.peer_cred)
            .map(|credentials| credentials.uid())
            .ok_or_else(|| Status::unauthenticated("the caller of this socket is not known"))
    }

    fn name(&self, caller: u32, name: String, ticket: &Ticket) -> Result<Option<NameGuard>, Error> {
        if name.is_empty() {
            return Ok(None);
        }
        let key = (caller, name);
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.contains_key(&key) {
            return Err(Error::new(
                Category::Conflict,
                format!("a generation with the request_id {:?} is running", key.1),
            ));
        }
        named.insert(key.clone(), ticket.canceller());
        Ok(Some(NameGuard {
            named: Arc::clone(&self.named),
            key,
        }))
    }

    fn submit_generation(
        &self,
        caller: u32,
        mut message: GenerateRequest,
    ) -> Result<(Ticket, Option<NameGuard>, String), Error> {
        let model = std::mem::take(&mut message.model);
        let name = message.request_id.clone();
        let work = request::generate(message)?;
        let slot = self.daemon.slot(&model)?;
        let ticket = slot.submit(caller, work)?;
        let guard = self.name(caller, name, &ticket)?;
        Ok((ticket, guard, slot.name().to_owned()))
    }
}

fn reply(text: String, generated: &Generated, queue_us: u64, model: String) -> GenerateReply {
    GenerateReply {
        text,
        finish_reason: generated.finish.name().to_owned(),
        prompt_tokens: generated.prompt_tokens,
        completion_tokens: generated.completion_tokens,
        queue_us,
        prompt_us: generated.prompt_us,
        decode_us: generated.decode_us,
        model,
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Passes a generation on as it comes. The generation ends when nobody reads any more.
async fn stream_out(
    mut ticket: Ticket,
    guard: Option<NameGuard>,
    model: String,
    out: mpsc::Sender<Result<GenerateChunk, Status>>,
) {
    let _guard = guard;
    loop {
        let event = tokio::select! {
            event = ticket.next() => event,
            () = out.closed() => return,
        };
        let (chunk, last) = match event {
            Event::Text(text) => {
                let chunk = GenerateChunk {
                    text,
                    done: false,
                    summary: None,
                };
                (Ok(chunk), false)
            }
            Event::Done(Outcome::Generated(generated), waited) => {
                let summary = reply(String::new(), &generated, micros(waited), model.clone());
                let chunk = GenerateChunk {
                    text: String::new(),
                    done: true,
                    summary: Some(summary),
                };
                (Ok(chunk), true)
            }
            Event::Done(outcome, _) => (Err(unexpected(outcome).into()), true),
            Event::Failed(error) => (Err(error.into()), true),
        };
        if out.send(chunk).await.is_err() || last {
            return;
        }
    }
}

#[tonic::async_trait]
impl Runtime for RuntimeService {
    type GenerateStreamStream =
        Pin<Box<dyn Stream<Item = Result<GenerateChunk, Status>> + Send + 'static>>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<GenerateReply>, Status> {
        let caller = self.admit(&request, Method::Generate)?;
        let (mut ticket, _guard, model) = self.submit_generation(caller, request.into_inner())?;
        let (text, generated, waited) = collect(&mut ticket).await?;
        Ok(Response::new(reply(
            text,
            &generated,
            micros(waited),
            model,
        )))
    }

    async fn generate_stream(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Self::GenerateStreamStream>, Status> {
        let caller = self.admit(&request, Method::GenerateStream)?;
        let (ticket, guard, model) = self.submit_generation(caller, request.into_inner())?;
        let (out, chunks) = mpsc::channel(WAITING_CHUNKS);
        tokio::spawn(stream_out(ticket, guard, model, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(chunks))))
    }

    async fn cancel_generation(
        &self,
        request: Request<CancelGenerationRequest>,
    ) -> Result<Response<Empty>, Status> {
        let caller = self.admit(&request, Method::CancelGeneration)?;
        let name = request.into_inner().request_id;
        if name.is_empty() {
            return Err(Error::new(Category::Validation, "request_id is empty").into());
        }
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        // The superuser may stop anybody's, others only their own. One that has ended is no error:
        // the caller cannot know.
        for ((owner, own_name), cancel) in named.iter() {
            if *own_name == name && (*owner == caller || caller == 0) {
                cancel.cancel();
            }
        }
        Ok(Response::new(Empty {}))
    }

    async fn embed(&self, request: Request<EmbedRequest>) -> Result<Response<EmbedReply>, Status> {
        let caller = self.admit(&request, Method::Embed)?;
        let message = request.into_inner();
        let slot = self.daemon.slot(&message.model)?;
        let mut ticket = slot.submit(caller, request::embed(message)?)?;
        match ticket.next().await {
            Event::Done(Outcome::Embedded { vectors }, _) => Ok(Response::new(EmbedReply {
                embeddings: vectors
                    .into_iter()
                    .map(|values| Embedding { values })
                    .collect(),
                model: slot.name().to_owned(),
            })),
            other => Err(no_result(other).into()),
        }
    }

    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeReply>, Status> {
        let caller = self.admit(&request, Method::Tokenize)?;
        let message = request.into_inner();
        let slot = self.daemon.slot(&message.model)?;
        let mut ticket = slot.submit(caller, request::tokenize(message)?)?;
        match ticket.next().await {
            Event::Done(Outcome::Tokenized { tokens }, _) => {
                Ok(Response::new(TokenizeReply { tokens }))
            }
            other => Err(no_result(other).into()),
        }
    }

    async fn list_models(
        &self,
        request: Request<Empty>,
    ) -> Result<Response<ListModelsReply>, Status> {
        self.admit(&request, Method::ListModels)?;
        Ok(Response::new(ListModelsReply {
            models: self.daemon.list().await,
        }))
    }

    async fn load_model(
        &self,
        request: Request<LoadModelRequest>,
    ) -> Result<Response<ModelInfo>, Status> {
        self.admit(&request, Method::LoadModel)?;
        let daemon = Arc::clone(&self.daemon);
        let name = request.into_inner().name;
        // In a task of its own: a caller that hangs up leaves no half-loaded model behind.
        let loaded = tokio::spawn(async move { daemon.load(&name).await })
            .await
            .map_err(|error| Error::new(Category::Internal, format!("loading failed: {error}")))?;
        Ok(Response::new(loaded?))
    }

    async fn unload_model(
        &self,
        request: Request<UnloadModelRequest>,
    ) -> Result<Response<Empty>, Status> {
        self.admit(&request, Method::UnloadModel)?;
        self.daemon.unload(&request.into_inner().name).await?;
        Ok(Response::new(Empty {}))
    }

    async fn runtime_health(
        &self,
        request: Request<Empty>,
    ) -> Result<Response<RuntimeHealthReply>, Status> {
        self.admit(&request, Method::RuntimeHealth)?;
        Ok(Response::new(self.daemon.health()))
    }
}

fn no_result(event: Event) -> Error {
    match event {
        Event::Done(outcome, _) => unexpected(outcome),
        Event::Failed(error) => error,
        Event::Text(_) => Error::new(Category::Internal, "the engine answered another question"),
    }
}

//! SSH agents that steps with `--mount=type=ssh` and Git sources use.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::{io::AsyncWriteExt, task::JoinSet};
use tokio_util::io::ReaderStream;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use crate::buildkit::{
    proto::moby::sshforward::v1::{
        BytesMessage, CheckAgentRequest, CheckAgentResponse, ssh_server::Ssh,
    },
    ssh_agent::SshAgent,
};

const AGENT_ID: &str = "buildkit.ssh.id";
const DEFAULT_AGENT: &str = "default";
/// Bytes that wait between the agent and the daemon in each direction.
const PIPE_BYTES: usize = 64 << 10;

pub struct SshService(Arc<BTreeMap<String, SshAgent>>);

impl SshService {
    pub fn new(agents: BTreeMap<String, SshAgent>) -> Self {
        Self(Arc::new(agents))
    }

    fn agent(&self, id: &str) -> Result<&SshAgent, Status> {
        let id = if id.is_empty() { DEFAULT_AGENT } else { id };
        self.0.get(id).ok_or_else(|| Status::not_found(format!("unset ssh forward key {id}")))
    }
}

fn requested_agent(metadata: &MetadataMap) -> &str {
    metadata.get(AGENT_ID).and_then(|id| id.to_str().ok()).unwrap_or_default()
}

#[tonic::async_trait]
impl Ssh for SshService {
    type ForwardAgentStream = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

    async fn check_agent(
        &self,
        request: Request<CheckAgentRequest>,
    ) -> Result<Response<CheckAgentResponse>, Status> {
        self.agent(&request.get_ref().id)?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    async fn forward_agent(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let agent = self.agent(requested_agent(request.metadata()))?.clone();
        let mut requests = request.into_inner();
        let (agent_end, daemon_end) = tokio::io::duplex(PIPE_BYTES);
        let (reader, mut writer) = tokio::io::split(daemon_end);
        // When the agent stops, both directions close.
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _ = agent.serve(agent_end).await;
        });
        tasks.spawn(async move {
            while let Ok(Some(message)) = requests.message().await {
                if writer.write_all(&message.data).await.is_err() {
                    return;
                }
            }
            let _ = writer.shutdown().await;
        });
        let answers = ReaderStream::new(reader).map(move |data: std::io::Result<Bytes>| {
            // Dropping the stream, and the tasks with it, ends them.
            let _ = &tasks;
            match data {
                Ok(data) => Ok(BytesMessage { data }),
                Err(error) => Err(Status::unavailable(error.to_string())),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

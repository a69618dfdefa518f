//! Sends each request of the daemon to the service that it names.

use std::{collections::BTreeMap, convert::Infallible, pin::Pin, sync::Arc};

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::{
    body::Body,
    codegen::{Body as HttpBody, StdError},
    server::NamedService,
};
use tower::Service;

use super::{
    FirstError, Services,
    auth::AuthService,
    content::ContentService,
    export::{Consumer, ExportService, Exports},
    file_sync::FileSyncService,
    secrets::SecretsService,
    ssh::SshService,
};
use crate::buildkit::{
    connection::MAX_MESSAGE_BYTES,
    proto::{
        containerd::services::content::v1::content_server::ContentServer,
        grpc::health::v1::{
            HealthCheckRequest, HealthCheckResponse,
            health_check_response::ServingStatus,
            health_server::{Health, HealthServer},
        },
        moby::{
            buildkit::secrets::v1::secrets_server::SecretsServer,
            filesync::v1::{
                auth_server::AuthServer, file_send_server::FileSendServer,
                file_sync_server::FileSyncServer,
            },
            sshforward::v1::ssh_server::SshServer,
        },
    },
};

/// Methods announced to the daemon, which checks FileSync and FileSend only.
pub const METHODS: [&str; 12] = [
    "/grpc.health.v1.Health/Check",
    "/moby.filesync.v1.FileSync/DiffCopy",
    "/moby.filesync.v1.FileSend/DiffCopy",
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.filesync.v1.Auth/FetchToken",
    "/moby.filesync.v1.Auth/GetTokenAuthority",
    "/moby.filesync.v1.Auth/VerifyTokenAuthority",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/moby.sshforward.v1.SSH/CheckAgent",
    "/moby.sshforward.v1.SSH/ForwardAgent",
    "/containerd.services.content.v1.Content/Info",
    "/containerd.services.content.v1.Content/Read",
];

pub type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// The services of a session.
#[derive(Clone)]
pub struct Router {
    health: HealthServer<AlwaysServing>,
    file_sync: FileSyncServer<FileSyncService>,
    export: FileSendServer<ExportService>,
    auth: AuthServer<AuthService>,
    secrets: SecretsServer<SecretsService>,
    ssh: SshServer<SshService>,
    content: ContentServer<ContentService>,
}

impl Router {
    pub fn new(services: Services, exports: Arc<Exports>, first_error: &FirstError) -> Self {
        let file_sync =
            FileSyncService::new(services.directories, services.progress, first_error.clone());
        let export = ExportService::new(exports, first_error.clone());
        Self {
            health: HealthServer::new(AlwaysServing),
            file_sync: FileSyncServer::new(file_sync).max_decoding_message_size(MAX_MESSAGE_BYTES),
            export: FileSendServer::new(export).max_decoding_message_size(MAX_MESSAGE_BYTES),
            auth: AuthServer::new(AuthService::new(services.auth, first_error.clone())),
            secrets: SecretsServer::new(SecretsService::new(services.secrets)),
            ssh: SshServer::new(SshService::new(services.ssh)),
            content: ContentServer::new(ContentService::new(services.layouts)),
        }
    }

    fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: HttpBody + Send + 'static,
        B::Error: Into<StdError> + Send + 'static,
    {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match service {
            HealthServer::<AlwaysServing>::NAME => self.health.clone().call(request),
            FileSyncServer::<FileSyncService>::NAME => self.file_sync.clone().call(request),
            FileSendServer::<ExportService>::NAME => self.export.clone().call(request),
            AuthServer::<AuthService>::NAME => self.auth.clone().call(request),
            SecretsServer::<SecretsService>::NAME => self.secrets.clone().call(request),
            SshServer::<SshService>::NAME => self.ssh.clone().call(request),
            ContentServer::<ContentService>::NAME => self.content.clone().call(request),
            _ => {
                Box::pin(async { Ok(tonic::Status::unimplemented("no such service").into_http()) })
            }
        }
    }
}

/// Returns a function that answers requests without a connection, for the fuzz tests.
#[doc(hidden)]
pub fn router(
    services: Services,
    consumers: BTreeMap<usize, Consumer>,
) -> impl Fn(Request<Body>) -> Answer {
    let exports = Arc::new(Exports::new(consumers));
    let router = Router::new(services, exports, &FirstError::default());
    move |request| router.answer(request)
}

impl hyper::service::Service<Request<Incoming>> for Router {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        self.answer(request)
    }
}

/// Always reports SERVING.
pub struct AlwaysServing;

#[tonic::async_trait]
impl Health for AlwaysServing {
    async fn check(
        &self,
        _: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, tonic::Status> {
        let status = ServingStatus::Serving.into();
        Ok(tonic::Response::new(HealthCheckResponse { status }))
    }
}

//! The operator: watches builds and their pods, and brings each build further by [`reconcile`].

pub mod apply;
mod attempt;
mod context;
pub mod diagnose;
pub mod durations;
pub mod events;
mod isolation;
pub mod lifecycle;
pub mod metrics;
mod progress;
pub mod queue;
mod reconcile;
mod server;
pub mod summarise;
mod turns;
mod watch;
mod watched_build;
mod watched_metadata;
pub mod watched_pod;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures::future::select_all;
use kube::{Api, Client, Config, api::ListParams, runtime::events::Reporter};
use kube_lease_manager::LeaseManagerBuilder;
use tokio::{net::TcpListener, signal::unix::SignalKind, sync::watch::Receiver};

use self::{
    events::Publisher, metrics::Metrics, server::Readiness, turns::Turns,
    watched_build::WatchedBuild,
};
use crate::plan::OperatorConfig;

/// Name of the Lease and of the reporter of events.
const CONTROLLER: &str = "ocibuild-controller";
/// Seconds until another replica takes over from one that is gone, and seconds before that when the leader renews.
const LEASE_SECONDS: u64 = 15;
const LEASE_GRACE_SECONDS: u64 = 10;
/// How long a connection to the API server may be silent before it counts as dead: a watch ends within 290 s, and speaks before.
const SILENCE: Duration = Duration::from_mins(5);

/// `ocibuild controller`: the operator.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// The operator's configuration, a YAML file; the chart writes it.
    #[arg(long, env = "OCIBUILD_CONFIG")]
    config: Option<PathBuf>,

    /// Address of health and metrics.
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: SocketAddr,

    /// Namespace of the leader election's Lease. Default: the namespace of the service account.
    #[arg(long, env = "POD_NAMESPACE")]
    lease_namespace: Option<String>,

    /// Name of this replica in the Lease and in events.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
}

/// Runs the operator until it is told to stop or loses its lease.
pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = load(arguments.config.as_deref())?;
    let mut kubernetes = Config::infer()
        .await
        .context("no Kubernetes cluster: neither a kubeconfig nor a service account was found")?;
    let lease_namespace =
        arguments.lease_namespace.unwrap_or_else(|| kubernetes.default_namespace.clone());
    (kubernetes.read_timeout, kubernetes.reset_reader_on_write) = (Some(SILENCE), true);
    let client =
        Client::try_from(kubernetes).context("the Kubernetes client could not be set up")?;
    let metrics = Arc::new(Metrics::default());
    let readiness = Readiness::waiting("the API server");
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    tokio::spawn(server::serve(listener, metrics.clone(), readiness.clone()));

    let mut stop = std::pin::pin!(stop_signal()?);
    tokio::select! {
        () = wait_for_crd(&client, &config, &readiness) => {}
        () = &mut stop => return Ok(ExitCode::SUCCESS),
    }
    // A replica that waits for the lease is ready: it would take over at any moment.
    readiness.ready();
    let identity =
        arguments.identity.unwrap_or_else(|| format!("{CONTROLLER}-{}", std::process::id()));
    let lease = LeaseManagerBuilder::new(client.clone(), CONTROLLER)
        .with_namespace(lease_namespace)
        .with_identity(identity.clone())
        .with_duration(LEASE_SECONDS)
        .with_grace(LEASE_GRACE_SECONDS)
        .with_field_manager(identity.clone())
        .build()
        .await
        .context("the Lease of the leader election could not be read or made")?;
    let (mut leads, lease_task) = lease.watch().await;
    tokio::select! {
        is_led = leadership(&mut leads, true) => anyhow::ensure!(is_led, "the leader election ended by itself"),
        () = &mut stop => return Ok(ExitCode::SUCCESS),
    }
    tracing::info!(identity, "this replica leads");
    metrics.lead();

    let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(identity) };
    let publisher = Publisher::new(client.clone(), reporter);
    let namespaces: Vec<Option<String>> = if config.watch_namespaces.is_empty() {
        vec![None]
    } else {
        config.watch_namespaces.iter().cloned().map(Some).collect()
    };
    let turns =
        Arc::new(Turns::new(client.clone(), config.queue, namespaces.len(), metrics.clone()));
    let controllers = namespaces.into_iter().map(|namespace| {
        let watched = watch::Watched { namespace, turns: turns.clone() };
        tokio::spawn(watch::run(
            client.clone(),
            watched,
            config.clone(),
            publisher.clone(),
            metrics.clone(),
        ))
    });
    tokio::select! {
        _ = select_all(controllers) => anyhow::bail!("a watch ended by itself"),
        _ = leadership(&mut leads, false) => {
            tracing::error!("the lease was lost to another replica; this one ends, so that it starts afresh");
            Ok(ExitCode::FAILURE)
        }
        () = &mut stop => {
            tracing::info!("told to stop: giving the lease back; builds go on without the operator");
            drop(leads);
            let released = tokio::time::timeout(Duration::from_secs(3), lease_task).await;
            if released.is_err() {
                tracing::warn!("the lease could not be given back in time; it lapses by itself");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn load(path: Option<&std::path::Path>) -> anyhow::Result<OperatorConfig> {
    let Some(path) = path else { return Ok(OperatorConfig::default()) };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    let not_valid = || format!("the configuration {} is not valid", path.display());
    let config: OperatorConfig = serde_saphyr::from_str(&text).with_context(not_valid)?;
    config.check().with_context(not_valid)?;
    Ok(config)
}

fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// An operator that was installed before its CRD waits instead of crashing.
async fn wait_for_crd(client: &Client, config: &OperatorConfig, readiness: &Readiness) {
    let api: Api<WatchedBuild> = match config.watch_namespaces.first() {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    loop {
        let listed = tokio::time::timeout(
            Duration::from_secs(10),
            api.list(&ListParams::default().limit(1)),
        )
        .await;
        let what = match listed {
            Ok(Ok(_)) => return,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                "the CustomResourceDefinition ocibuilds.ocibuild.dev: apply crds/ or install the chart with crds.install=true"
                    .to_owned()
            }
            Ok(Err(error)) => format!("the API server: {error}"),
            Err(_) => "the API server: no answer within 10s".to_owned(),
        };
        tracing::warn!("waiting for {what}");
        readiness.wait(what);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Waits until this replica leads, or does not; false if the leader election has ended.
async fn leadership(leads: &mut Receiver<bool>, wanted: bool) -> bool {
    leads.wait_for(|leads| *leads == wanted).await.is_ok()
}

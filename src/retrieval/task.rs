//! Carries out what [`Upstream`] asks for: a task per gateway, with a task per request.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::Registry;
use super::client::GatewayClient;
use super::upstream::{Answer, AskerId, Event, Job, Trouble, Upstream};
use crate::bitswap::session::Action;
use crate::net::GatewayAddress;

/// How long a gateway that nobody asks stays connected: the next pin often names it again.
const LINGER: Duration = Duration::from_secs(30);

/// What a fetch hears, and of which of its gateways.
pub(super) type GatewayEvents = mpsc::UnboundedSender<(u32, Event)>;

/// What a fetch tells a gateway's task.
#[derive(Debug)]
pub(super) enum Command {
    /// It begins to ask. The number is the gateway's among those of the fetch.
    Open(AskerId, u32, GatewayEvents),
    /// It is over.
    Close(AskerId),
    /// What it asks and takes back.
    Act(AskerId, Vec<Action>),
}

enum Outcome {
    Probed(Result<(GatewayClient, usize), Trouble>),
    Answered(u64, Answer),
}

/// The task of one gateway.
pub(super) struct GatewayTask {
    address: GatewayAddress,
    registry: Weak<Registry>,
    /// Not bounded by itself: it holds what sessions ask for, who have their own bounds.
    commands: mpsc::UnboundedReceiver<Command>,
    upstream: Upstream,
    listeners: HashMap<AskerId, (u32, GatewayEvents)>,
    client: Option<GatewayClient>,
    jobs: JoinSet<Outcome>,
    requests: HashMap<u64, AbortHandle>,
}

impl GatewayTask {
    pub(super) fn new(
        address: GatewayAddress,
        registry: Weak<Registry>,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        Self {
            address,
            registry,
            commands,
            upstream: Upstream::new(),
            listeners: HashMap::new(),
            client: None,
            jobs: JoinSet::new(),
            requests: HashMap::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut idle_since = Instant::now();
        loop {
            while let Some(job) = self.upstream.poll_job(Instant::now()) {
                self.start(job);
            }
            for number in self.upstream.take_called_off() {
                if let Some(request) = self.requests.remove(&number) {
                    request.abort();
                }
            }
            self.tell();
            let is_idle = self.upstream.is_idle();
            let wake_at = if is_idle {
                let end = (idle_since + LINGER).max(self.upstream.remember_until().unwrap_or(idle_since));
                if end <= Instant::now() && self.leave() {
                    return;
                }
                Some(end)
            } else {
                idle_since = Instant::now();
                self.upstream.next_timeout()
            };
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    // Nobody can ask any more.
                    None => return,
                },
                Some(outcome) = self.jobs.join_next_with_id() => self.handle_outcome(outcome),
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Takes the gateway off the list, unless someone has just begun to ask.
    fn leave(&mut self) -> bool {
        // It was taken off already, and there may be another one by now.
        if self.commands.is_closed() {
            return true;
        }
        let Some(registry) = self.registry.upgrade() else { return true };
        let mut gateways = registry.lock();
        let may_leave = self.commands.is_empty();
        if may_leave {
            gateways.remove(&self.address);
        }
        may_leave
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Open(asker, index, events) => {
                self.listeners.insert(asker, (index, events));
                self.upstream.open(asker, Instant::now());
            }
            Command::Close(asker) => {
                self.listeners.remove(&asker);
                self.upstream.close(asker);
            }
            Command::Act(asker, actions) => {
                for action in actions {
                    match action {
                        Action::Ask { cid, kind, .. } => self.upstream.ask(asker, cid, kind),
                        Action::Withdraw { cid, .. } => self.upstream.withdraw(asker, &cid),
                    }
                }
            }
        }
    }

    fn start(&mut self, job: Job) {
        match job {
            Job::Probe => {
                let (made, address, registry) = (self.client.take(), self.address.clone(), self.registry.clone());
                self.jobs.spawn(async move { Outcome::Probed(probe(made, address, &registry).await) });
            }
            Job::Ask { number, cid, kind } => {
                // Whoever may be asked has been probed.
                let Some(client) = self.client.clone() else { return };
                let request = async move { Outcome::Answered(number, client.ask(cid, kind).await) };
                self.requests.insert(number, self.jobs.spawn(request));
            }
        }
    }

    fn handle_outcome(&mut self, outcome: Result<(Id, Outcome), JoinError>) {
        let now = Instant::now();
        match outcome {
            Ok((_, Outcome::Probed(Ok((client, requests_max))))) => {
                tracing::debug!(gateway = %self.address, requests_max, "a gateway answers");
                self.client = Some(client);
                self.upstream.handle_probe(Ok(requests_max), now);
            }
            Ok((_, Outcome::Probed(Err(trouble)))) => {
                tracing::debug!(gateway = %self.address, ?trouble, "a gateway can't be used");
                self.upstream.handle_probe(Err(trouble), now);
            }
            Ok((_, Outcome::Answered(number, answer))) => {
                if let Answer::Trouble(trouble) = &answer {
                    tracing::debug!(gateway = %self.address, ?trouble, "a request to a gateway brought nothing");
                }
                self.requests.remove(&number);
                self.upstream.handle_answer(number, answer, now);
            }
            // It was called off.
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                tracing::error!(gateway = %self.address, %error, "a request to a gateway panicked");
                let trouble = Trouble::Failed("an internal error; see the log".to_owned());
                let number = self.requests.iter().find(|(_, request)| request.id() == error.id());
                match number.map(|(number, _)| *number) {
                    Some(number) => {
                        self.requests.remove(&number);
                        self.upstream.handle_answer(number, Answer::Trouble(trouble), now);
                    }
                    None => self.upstream.handle_probe(Err(trouble), now),
                }
            }
        }
    }

    fn tell(&mut self) {
        for (asker, event) in self.upstream.take_events() {
            if let Some((index, events)) = self.listeners.get(&asker) {
                let _ = events.send((*index, event));
            }
        }
    }
}

async fn probe(
    made: Option<GatewayClient>,
    address: GatewayAddress,
    registry: &Weak<Registry>,
) -> Result<(GatewayClient, usize), Trouble> {
    let stopping = || Trouble::Failed("the program is stopping".to_owned());
    let client = match made {
        Some(client) => client,
        None => {
            let registry = registry.upgrade().ok_or_else(stopping)?;
            let build =
                move || GatewayClient::new(&address, registry.names.clone(), &registry.profile, registry.share.clone());
            tokio::task::spawn_blocking(build).await.map_err(|_| stopping())??
        }
    };
    let requests_max = client.probe().await?;
    Ok((client, requests_max))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

//! Thousands of agents that only listen: each proves its node, follows, and says that it has in
//! effect what it was told. What they are told is counted, and not looked at.

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use hyper_util::rt::TokioIo;
use martlet_identity::{Chain, Credentials, SigningKey, Svid, TrustBundle, control};
use martlet_model::{Label, Part};
use prost::Message;
use tokio::{
    net::TcpSocket,
    sync::{Semaphore, mpsc},
    time::{interval, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Endpoint,
};

use crate::{cluster::node, controller::Controller};

/// Handshakes at once: they are not what is measured.
const AT_ONCE: usize = 64;
/// As agents do it.
const SAY: Duration = Duration::from_secs(10);
const LIFETIME: Duration = Duration::from_secs(3600);

pub struct Agents {
    counts: Arc<Counts>,
}

struct Counts {
    /// What each has been told whole.
    versions: Vec<AtomicU64>,
    bytes: AtomicU64,
    ended: AtomicU64,
}

impl Agents {
    pub fn start(controller: &Controller, agents: usize) -> Result<Self> {
        let counts = Arc::new(Counts {
            versions: (0..agents).map(|_| AtomicU64::new(0)).collect(),
            bytes: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        });
        let roots = controller.authority.roots().to_vec();
        let bundle = Arc::new(TrustBundle::new([(controller.domain.clone(), roots)])?);
        let key = SigningKey::generate()?;
        let (csr, turns) = (key.csr()?, Arc::new(Semaphore::new(AT_ONCE)));
        for number in 0..agents {
            let name: Label = node(number).parse().context("a node's name")?;
            let part = Part::Node(name);
            let (identity, now) = (part.identity(&controller.domain), SystemTime::now());
            let chain = controller.authority.issue_part(&csr, &part, LIFETIME, now)?;
            let Chain(der) = chain;
            let svid = Svid::new(&key, Chain(der), &identity)?;
            let credentials = Credentials::new(identity, bundle.clone());
            credentials.install(svid);
            let (counts, turns, address) = (counts.clone(), turns.clone(), controller.address);
            tokio::spawn(async move {
                if let Err(error) = follow(number, address, &credentials, &counts, &turns).await {
                    eprintln!("agent {number}: {error:#}");
                }
                counts.ended.fetch_add(1, Relaxed);
            });
        }
        Ok(Self { counts })
    }

    /// Until each has been told this version, or a later one.
    pub async fn until_told(&self, version: u64, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        while self.version() < version {
            ensure!(self.ended() == 0, "{} agents lost their connection", self.ended());
            ensure!(Instant::now() < until, "not all agents were told version {version}");
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Which all of them have been told.
    pub fn version(&self) -> u64 {
        self.counts.versions.iter().map(|version| version.load(Relaxed)).min().unwrap_or(0)
    }

    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(Relaxed)
    }

    pub fn ended(&self) -> u64 {
        self.counts.ended.load(Relaxed)
    }
}

async fn follow(
    number: usize,
    address: std::net::SocketAddr,
    credentials: &Credentials,
    counts: &Counts,
    turns: &Semaphore,
) -> Result<()> {
    let turn = turns.acquire().await?;
    let socket = TcpSocket::new_v4()?;
    // The controller bounds what one address may have at once; nodes have one each.
    let own = u32::from(Ipv4Addr::new(127, 1, 0, 0)) + u32::try_from(number)?;
    socket.bind((Ipv4Addr::from_bits(own), 0).into())?;
    let stream = socket.connect(address).await.context("connecting")?;
    let secured = control::call(stream, credentials).await.context("proving the node")?;
    drop(turn);
    let mut once = Some(TokioIo::new(secured));
    let connector = tower::service_fn(move |_| {
        let stream = once.take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let endpoint = Endpoint::from_static("http://controller");
    let channel = endpoint.connect_with_connector(connector).await.context("beginning HTTP/2")?;
    let mut client = Grpc::new(channel);
    client.ready().await?;
    let (say, said) = mpsc::channel(4);
    say.send(FromAgent {
        hello: Some(Hello { version: "scale".to_owned() }),
        ..Default::default()
    })
    .await?;
    let path = "/martlet.control.v1alpha1.Control/Follow".parse()?;
    let request = Request::new(ReceiverStream::new(said));
    let mut told =
        client.streaming(request, path, Counting).await.context("following")?.into_inner();
    let mut ticks = interval(SAY);
    loop {
        let message = tokio::select! {
            message = told.message() => message?.context("the controller ended it")?,
            _ = ticks.tick() => {
                say.send(FromAgent { usage: Some(Nothing {}), ..Default::default() }).await?;
                continue;
            }
        };
        counts.bytes.fetch_add(message.bytes, Relaxed);
        if message.head.complete {
            let version = message.head.version;
            counts.versions[number].store(version, Relaxed);
            let acknowledged = Acknowledgement { version, trust_version: 1 };
            let said = FromAgent { acknowledgement: Some(acknowledged), ..Default::default() };
            say.send(said).await?;
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct FromAgent {
    #[prost(message, optional, tag = "1")]
    hello: Option<Hello>,
    #[prost(message, optional, tag = "2")]
    acknowledgement: Option<Acknowledgement>,
    #[prost(message, optional, tag = "3")]
    usage: Option<Nothing>,
}

#[derive(Clone, PartialEq, Message)]
struct Hello {
    #[prost(string, tag = "1")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Acknowledgement {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(uint64, tag = "2")]
    trust_version: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

/// Of what an agent is told, what it is of.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(uint64, tag = "2")]
    version: u64,
    #[prost(bool, tag = "5")]
    complete: bool,
}

struct Told {
    head: Head,
    bytes: u64,
}

/// Reads the head, and counts the rest.
#[derive(Debug, Clone, Copy, Default)]
struct Counting;

impl Codec for Counting {
    type Encode = FromAgent;
    type Decode = Told;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Counting {
    type Item = FromAgent;
    type Error = Status;

    fn encode(&mut self, item: FromAgent, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(to).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Counting {
    type Item = Told;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Told>, Status> {
        use prost::bytes::Buf as _;
        let bytes = from.remaining() as u64;
        let head = Head::decode(from).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Some(Told { head, bytes }))
    }
}

//! The whole way of a connection: connect, steer, lane, far pod, record; and what the wire shows.

use std::{net::SocketAddr, sync::Arc, time::Duration, time::SystemTime};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use martlet_authority::{Authority, LEAF_LIFETIME, LeafRequest};
use martlet_dataplane::{Dataplane, Dial, Dialing, Local, View};
use martlet_identity::{Credentials, SigningKey, Svid, TrustBundle};
use martlet_kernel::{Dialer, Listeners, Node};
use martlet_lab::{Canaries, Capture, Sniffer};
use martlet_model::{
    AccessRecord, Closed, Directory, Mode, Protection, SpiffeId, TrustDomain, Workload,
    WorkloadName,
};
use martlet_tests_kernel::{Lab, Place, members};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(10);
const CANARIES: usize = 10_000;

struct Inside(Dialer);

impl Dial for Inside {
    fn dial(&self, to: SocketAddr, shown_as: Option<SocketAddr>) -> Dialing<'_> {
        Box::pin(self.0.connect(to, shown_as))
    }
}

fn workload(domain: &TrustDomain, name: &str, place: &Place) -> Result<Arc<Workload>> {
    Ok(Arc::new(Workload {
        name: WorkloadName { namespace: "shop".parse()?, name: name.parse()? },
        service_account: name.parse()?,
        identity: SpiffeId::for_workload(domain, "shop", name)?,
        addresses: vec![place.v4, place.v6],
        node: "one".parse()?,
        mode: Mode::Strict,
        policies: vec![],
    }))
}

fn credentials(authority: &Authority, workload: &Workload) -> Result<Arc<Credentials>> {
    let key = SigningKey::generate()?;
    let request = LeafRequest {
        identity: workload.identity.clone(),
        workload: workload.name.clone(),
        node: workload.node.clone(),
        uid: None,
        lifetime: LEAF_LIFETIME,
    };
    let chain = authority.issue(&key.csr()?, &request, SystemTime::now())?;
    let domain = authority.trust_domain().clone();
    let trust = TrustBundle::new([(domain, authority.roots().to_vec())])?;
    let credentials = Credentials::new(workload.identity.clone(), Arc::new(trust));
    credentials.install(Svid::new(&key, chain, &workload.identity)?);
    Ok(Arc::new(credentials))
}

/// What an agent does with a pod: hands what its listeners accept to the data plane.
fn serve(dataplane: &Arc<Dataplane>, local: &Arc<Local>, dialer: &Dialer, listeners: Listeners) {
    for listener in listeners.outbound {
        let (dataplane, local, dialer) = (dataplane.clone(), local.clone(), dialer.clone());
        tokio::spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                let origin = dialer.origin(&stream);
                dataplane.outbound(local.clone(), stream, from, origin);
            }
        });
    }
    for listener in listeners.inbound {
        let (dataplane, local) = (dataplane.clone(), local.clone());
        tokio::spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                let Ok(to) = stream.local_addr() else { continue };
                dataplane.inbound(local.clone(), stream, from, to);
            }
        });
    }
}

/// Sends all canaries from one pod to the other; what the node saw of it between the two.
async fn watched(
    lab: &Lab,
    from: &Place,
    listener: &TcpListener,
    to: SocketAddr,
) -> Result<Capture> {
    let canaries = Canaries::random(CANARIES);
    let sniffer = Sniffer::start([lab.node.netns()], &canaries)?;
    let mut caller: TcpStream = timeout(PATIENCE, from.connect(to)).await??;
    let (mut callee, seen) = timeout(PATIENCE, listener.accept()).await.context("accepting")??;
    assert_eq!(seen.ip(), from.v4, "the application sees the real caller");
    assert_eq!(caller.peer_addr()?, to);
    // One at a time, so that each is a packet, or a record, of its own.
    for canary in canaries.iter() {
        caller.write_all(canary).await?;
        let mut word = [0; Canaries::LENGTH];
        timeout(PATIENCE, callee.read_exact(&mut word)).await??;
        assert_eq!(word, canary);
    }
    caller.shutdown().await?;
    let mut rest = Vec::new();
    timeout(PATIENCE, callee.read_to_end(&mut rest)).await??;
    drop(callee);
    timeout(PATIENCE, caller.read_to_end(&mut rest)).await??;
    assert!(rest.is_empty());
    // Fails if a single frame was lost.
    sniffer.stop()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wire_shows_no_plaintext_between_enrolled_pods() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.place("cart-0")?, lab.place("web-0")?);
    let to = SocketAddr::new(b.v4, 8080);
    let listener = b.listen(to)?;
    let plain = watched(&lab, &a, &listener, to).await?;
    assert_eq!(plain.found().len(), CANARIES, "not enrolled: the sniffer sees every canary");

    let domain: TrustDomain = "prod.example".parse()?;
    let authority = Authority::ephemeral(&domain)?;
    let (cart, web) = (workload(&domain, "cart", &a)?, workload(&domain, "web", &b)?);
    let directory = Directory::new([cart.clone(), web.clone()], [])?;
    let view = View { directory: Arc::new(directory), policies: Arc::default() };
    let (sink, mut records) = mpsc::channel::<AccessRecord>(16);
    let dataplane = Dataplane::new(Arc::new(ArcSwap::from_pointee(view)), sink);
    let node = Node::start(&lab.settings)?;
    members(&node, &[&a, &b])?;
    let mut pods = Vec::new();
    for (place, workload) in [(&a, &cart), (&b, &web)] {
        let (pod, listeners) = place.enroll(&node, true)?;
        let credentials = credentials(&authority, workload)?;
        let dial = Arc::new(Inside(pod.dialer()));
        let local = Arc::new(Local::new(workload.clone(), credentials, dial));
        serve(&dataplane, &local, &pod.dialer(), listeners);
        pods.push(pod);
    }
    let capture = watched(&lab, &a, &listener, to).await?;
    assert_eq!(capture.found().len(), 0, "enrolled: the sniffer sees none");
    let lanes: Vec<_> = capture.flows_of(to).collect();
    assert!(lanes.iter().all(|lane| lane.not_tls == 0), "all of it is TLS: {lanes:?}");
    let records_of_data: u64 = lanes.iter().map(|lane| lane.records_by_type[3]).sum();
    assert!(records_of_data >= CANARIES as u64, "but {records_of_data} TLS records");
    for _ in 0..2 {
        let record = timeout(PATIENCE, records.recv()).await?.context("a record")?;
        assert_eq!(record.closed, Closed::Finished);
        assert_eq!(record.protection, Protection::MutualTls);
        assert_eq!(record.source.identity.as_ref(), Some(&cart.identity));
        assert_eq!(record.destination.identity.as_ref(), Some(&web.identity));
        assert_eq!(record.bytes_sent, 32 * CANARIES as u64);
        assert_eq!(record.tls.context("TLS facts")?.key_exchange, "X25519MLKEM768");
    }
    Ok(())
}

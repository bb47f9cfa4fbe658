//! Peers that break the protocol. They lose their stream or what they asked for; nobody else loses anything.

use futures::AsyncReadExt;
use libp2p::Stream;
use pinnace::bitswap::wire::{Outgoing, WantKind};
use pinnace::model::limits::{INBOUND_STREAMS_PER_CONNECTION_MAX, MESSAGE_BYTES_MAX};

use crate::support::asker::{Answer, Asker};
use crate::support::daemon::{Daemon, Home};
use crate::support::dag::{Dag, leaf};
use crate::support::provider::Provider;
use crate::support::{until, wire, within};

/// More than a debug build with all its caches takes, and less than what a message must not be able to make of itself.
#[cfg(target_os = "linux")]
const MEMORY_MAX: u64 = 300 * 1024 * 1024;

/// Messages of a megabyte that one connection can leave unfinished at least.
const UNFINISHED: usize = 64;

/// A service, a peer of it that will misbehave, and a bystander.
struct Scene {
    _home: Home,
    service: Daemon,
    hostile: Asker,
    bystander: Asker,
}

impl Scene {
    async fn new() -> Self {
        let home = Home::new();
        let service = home.start().await;
        let address = service.ready.multiaddr("/tcp/");
        let (hostile, bystander) = (Asker::connect(&address).await, Asker::connect(&address).await);
        Self { _home: home, service, hostile, bystander }
    }

    /// Everything still works, for the bystander and for the hostile peer too, should it mend its ways.
    async fn check(mut self) {
        self.bystander.check().await;
        self.hostile.check().await;
        let dag = Dag::wide("afterwards", 3, 1_000);
        let provider = Provider::start(&dag).await;
        let pin = self.service.api().add(&dag.root, &[provider.origin()]).await;
        self.service.api().wait_pinned(&pin, 10).await;
        self.bystander.compare(&dag).await;
        #[cfg(target_os = "linux")]
        assert!(self.service.memory_peak() < MEMORY_MAX, "{} bytes at the peak", self.service.memory_peak());
        let (status, _) = self.service.terminate().await;
        assert!(status.success(), "{status}");
    }
}

/// Waits until the service ends a stream.
async fn wait_ended(stream: &mut Stream) {
    let read = within("end of the stream", 10, stream.read(&mut [0])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "the service wrote to the stream");
}

#[tokio::test]
async fn garbage_ends_the_stream() {
    let mut scene = Scene::new().await;
    // Of a kind that no message begins with: field 0, wire type 7.
    let noise: Vec<u8> = (0..5_000u32).map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()[3] | 7).collect();
    let truncated_field = [0x0a, 0x7f, 0x01];
    let unknown_wire_type = [0x0f];
    let endless_number = [0xff; 32];
    let streams = [
        wire::framed(&noise),
        wire::framed(&truncated_field),
        wire::framed(&unknown_wire_type),
        endless_number.to_vec(),
        wire::framed(&wire::field(1, &endless_number)),
    ];
    for bytes in streams {
        let mut stream = scene.hostile.open().await;
        // The service may have ended the stream before all is written.
        let _ = wire::write_bytes(&mut stream, &bytes).await;
        wait_ended(&mut stream).await;
        scene.bystander.check().await;
    }
    scene.check().await;
}

#[tokio::test]
async fn a_message_that_announces_too_much_ends_the_stream() {
    let scene = Scene::new().await;
    for length in [MESSAGE_BYTES_MAX as u64 + 1, 1 << 40, u64::MAX] {
        let mut stream = scene.hostile.open().await;
        let _ = wire::write_bytes(&mut stream, &wire::varint(length)).await;
        wait_ended(&mut stream).await;
    }
    scene.check().await;
}

#[tokio::test]
async fn a_million_empty_entries_are_passed_over() {
    let mut scene = Scene::new().await;
    let empty_entries = |number| wire::field(number, &[]).repeat(1_000_000);
    let mut stream = scene.hostile.open().await;
    // Wants, wantlists, blocks, presences, and what a later version may mean.
    for body in
        [wire::field(1, &empty_entries(1)), empty_entries(1), empty_entries(3), empty_entries(4), empty_entries(9)]
    {
        wire::write_bytes(&mut stream, &wire::framed(&body)).await.unwrap();
        scene.hostile.sync(&mut stream).await;
    }
    // Blocks of the oldest kind, each of which would have to be hashed.
    wire::write_bytes(&mut stream, &wire::framed(&empty_entries(2))).await.unwrap();
    wait_ended(&mut stream).await;
    scene.check().await;
}

#[tokio::test]
async fn a_million_wants_leave_room_for_others() {
    let mut scene = Scene::new().await;
    let mut stream = scene.hostile.open().await;
    let entries: Vec<u8> = (0..20_000)
        .flat_map(|number| {
            let (cid, _) = leaf(&format!("want {number}"), 16);
            wire::field(1, &wire::field(1, &cid.to_bytes()))
        })
        .collect();
    let message = wire::framed(&wire::field(1, &entries));
    for _ in 0..50 {
        wire::write_bytes(&mut stream, &message).await.unwrap();
    }
    scene.bystander.check().await;
    // The full wantlist of an honest moment replaces all that.
    let message = wire::framed(&entries_full(&[leaf("alone", 16).0]));
    wire::write_bytes(&mut stream, &message).await.unwrap();
    assert_eq!(scene.hostile.answer(&leaf("alone", 16).0).await, Answer::DontHave);
    scene.check().await;
}

/// A message with these wants as the full wantlist, each to be answered in any case.
fn entries_full(wants: &[cid::Cid]) -> Vec<u8> {
    let mut wantlist = Vec::new();
    for cid in wants {
        let mut want = wire::field(1, &cid.to_bytes());
        want.extend([5 << 3, 1]);
        wantlist.extend(wire::field(1, &want));
    }
    wantlist.extend([2 << 3, 1]);
    wire::field(1, &wantlist)
}

/// boxo opens a stream for every message, and ends it a round trip later: over a long link hundreds of them are open.
#[tokio::test]
async fn a_crowd_of_streams_with_a_message_each_is_read() {
    let mut scene = Scene::new().await;
    let (mut open, mut asked) = (Vec::new(), Vec::new());
    for number in 0..900 {
        let (cid, _) = leaf(&format!("stream {number}"), 64);
        let mut stream = scene.hostile.open().await;
        wire::write(&mut stream, &wire::want(cid, WantKind::Have)).await.unwrap();
        open.push(stream);
        asked.push(cid);
    }
    for cid in &asked {
        assert_eq!(scene.hostile.answer(cid).await, Answer::DontHave);
    }
    drop(open);
    scene.check().await;
}

#[tokio::test]
async fn streams_that_are_never_finished_are_bounded() {
    let mut scene = Scene::new().await;
    // Each announces a message of a megabyte and stops after some bytes of it, or says nothing at all.
    let mut beginning = wire::varint(1_000_000);
    beginning.extend([0; 1_000]);
    let mut open = Vec::new();
    for number in 0..INBOUND_STREAMS_PER_CONNECTION_MAX {
        let mut stream = scene.hostile.open().await;
        if number < UNFINISHED {
            wire::write_bytes(&mut stream, &beginning).await.unwrap();
        }
        open.push(stream);
    }
    for _ in 0..20 {
        // What is over the bound is ended, possibly before anything can be written to it.
        if let Ok(mut stream) = scene.hostile.peer.try_open(scene.hostile.service).await {
            let _ = wire::write_bytes(&mut stream, &beginning).await;
            wait_ended(&mut stream).await;
        }
    }
    scene.bystander.check().await;
    assert_eq!(scene.service.api().count("pinned").await, 0);
    drop(open);
    // The service sees the ends of the streams in its own time; until then it ends the next one too.
    let (cid, _) = leaf("asked again", 10);
    let hostile = &mut scene.hostile;
    until("room for streams", 10, async || {
        let mut stream = hostile.open().await;
        let _ = wire::write(&mut stream, &wire::want(cid, WantKind::Have)).await;
        tokio::select! {
            answer = hostile.answer(&cid) => (answer == Answer::DontHave).then_some(()),
            () = wait_ended(&mut stream) => None,
        }
    })
    .await;
    scene.check().await;
}

#[tokio::test]
async fn blocks_that_nobody_wants_are_not_kept() {
    let mut scene = Scene::new().await;
    let (cid, data) = leaf("unwanted", 1_000);
    let mut stream = scene.hostile.open().await;
    for data in [data.slice(1..), data] {
        let message = Outgoing { blocks: vec![(cid, data)], ..Outgoing::default() };
        wire::write(&mut stream, &message).await.unwrap();
        scene.hostile.sync(&mut stream).await;
        assert_eq!(scene.bystander.ask(cid, WantKind::Block).await, Answer::DontHave);
    }
    scene.check().await;
}

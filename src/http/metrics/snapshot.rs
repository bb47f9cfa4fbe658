//! What the parts of the process say of themselves when they are asked.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::http::control::{ControlState, status};
use crate::http::error::ApiError;
use crate::net::bandwidth::Counted;
#[cfg(target_os = "linux")]
use crate::net::memory;
use crate::provide::ProvideStatus;
use crate::store::blocks::GcReport;
use crate::store::gc::GcState;
use crate::store::verify::VerifyState;

/// A figure with several values.
type Values = Vec<(&'static str, f64)>;

/// Everything that isn't counted by `track`.
#[derive(Debug)]
pub(super) struct Snapshot {
    pins: Values,
    fetched: (u64, u64),
    served: (u64, u64),
    transferred: Vec<Counted>,
    blocks: u64,
    segment_bytes: u64,
    disk_bytes: Values,
    short_of_room: bool,
    damaged_blocks: u64,
    gc_running: bool,
    gc: GcReport,
    verify_running: bool,
    /// Absent without a denylist.
    denylist_rules: Option<f64>,
    /// Absent without the DHT.
    dht: Option<(f64, f64)>,
    provide: Option<ProvideStatus>,
    peers: u64,
    connections: u64,
    started_seconds: f64,
    process: Process,
}

impl Snapshot {
    /// Asks all parts. It reads a few bytes of both stores, whatever their size.
    pub(super) async fn take(state: &ControlState) -> Result<Self, ApiError> {
        let now = status::read(state).await?;
        let (gc_running, gc) = match state.garbage.state() {
            Some(GcState::Running(_, report)) => (true, report),
            Some(GcState::Ended(Ok(report))) => (false, report),
            None | Some(GcState::Ended(Err(_))) => (false, GcReport::default()),
        };
        let figure = |number: u64| number as f64;
        Ok(Self {
            pins: vec![
                ("queued", figure(now.pins.queued)),
                ("pinning", figure(now.pins.pinning)),
                ("pinned", figure(now.pins.pinned)),
                ("failed", figure(now.pins.failed)),
            ],
            fetched: state.fetched.total(),
            served: state.node.served(),
            transferred: state.node.transferred(),
            blocks: now.store.blocks,
            segment_bytes: now.store.segment_bytes,
            disk_bytes: vec![
                ("blocks", figure(now.store.blocks_bytes_on_disk)),
                ("records", figure(now.store.records_bytes_on_disk)),
            ],
            short_of_room: state.blocks.shortage().is_some(),
            damaged_blocks: now.verification.damaged_blocks,
            gc_running,
            gc,
            verify_running: matches!(state.verifier.state(), Some(VerifyState::Running(..))),
            denylist_rules: now.denylist.map(|denylist| figure(denylist.rules)),
            dht: now.dht.map(|dht| (figure(dht.servers), figure(dht.records))),
            provide: now.provide.filter(|provide| provide.dht),
            peers: now.peers,
            connections: now.connections,
            started_seconds: state.process.started.as_millisecond() as f64 / 1000.0,
            process: Process::now(),
        })
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut write = Writer(&mut encoder);
        let version = vec![(env!("CARGO_PKG_VERSION"), 1.0)];
        write.gauges("build", "The version that runs", "version", &version)?;
        write.gauges("pins", "Pins of all accounts", "status", &self.pins)?;
        write.counter("blocks_fetched", "Blocks that came and were stored", None, self.fetched.0)?;
        write.counter("fetched", "Bytes of blocks that came and were stored", Some(&Unit::Bytes), self.fetched.1)?;
        write.counter("blocks_served", "Blocks that were read for peers", None, self.served.0)?;
        write.counter("served", "Bytes of blocks that were read for peers", Some(&Unit::Bytes), self.served.1)?;
        write.gauge("store_blocks", "Distinct blocks that are stored", None, self.blocks as f64)?;
        write.gauge(
            "store_segment",
            "Bytes of stored blocks, and of removed ones whose space isn't given back yet",
            Some(&Unit::Bytes),
            self.segment_bytes as f64,
        )?;
        write.gauges("store_file_bytes", "Bytes that a file takes on the disk", "file", &self.disk_bytes)?;
        write.flag(
            "store_short_of_room",
            "Whether pins wait because the store or the disk is full",
            self.short_of_room,
        )?;
        write.gauge(
            "store_damaged_blocks",
            "Damaged blocks that have not been replaced",
            None,
            self.damaged_blocks as f64,
        )?;
        write.flag("gc_running", "Whether garbage is being collected", self.gc_running)?;
        write.gauge(
            "gc_removed_blocks",
            "Blocks that the last collection removed",
            None,
            self.gc.removed_blocks as f64,
        )?;
        write.gauge(
            "gc_removed",
            "Bytes of blocks that the last collection removed",
            Some(&Unit::Bytes),
            self.gc.removed_bytes as f64,
        )?;
        write.flag("verify_running", "Whether the stored blocks are being verified", self.verify_running)?;
        if let Some(rules) = self.denylist_rules {
            write.gauge("denylist_rules", "Rules of the denylists in use", None, rules)?;
        }
        if let Some((servers, records)) = self.dht {
            write.gauge("dht_servers", "Servers of the DHT that are known", None, servers)?;
            write.gauge("dht_records", "Records that others left here as a server of the DHT", None, records)?;
        }
        if let Some(provide) = &self.provide {
            write.gauge("provide_roots_waiting", "Roots of new pins that wait", None, provide.roots_waiting as f64)?;
            let cells = "Parts of the keyspace, of 4096, that are due to be provided";
            write.gauge("provide_cells_due", cells, None, provide.cells_due as f64)?;
            write.flag("provide_behind", "Whether records may expire before they are renewed", provide.behind)?;
            write.counter("provide_lookups", "Look-ups of servers of the DHT", None, provide.lookups)?;
            write.counter("provide_records", "Records that servers were told", None, provide.records)?;
            write.counter("provide_failures", "Servers that couldn't be told", None, provide.failures)?;
        }
        write.gauge("network_peers", "Connected peers", None, self.peers as f64)?;
        write.gauge("network_connections", "Established connections", None, self.connections as f64)?;
        write.transferred(&self.transferred)?;
        write.gauge("start_time", "When the service was started", Some(&Unit::Seconds), self.started_seconds)?;
        let Process { resident_bytes, open_files, cpu_seconds } = self.process;
        if let Some(bytes) = resident_bytes {
            write.gauge("process_resident_memory", "Memory that is in use", Some(&Unit::Bytes), bytes)?;
        }
        if let Some(files) = open_files {
            write.gauge("process_open_fds", "Open files and sockets", None, files)?;
        }
        if let Some(seconds) = cpu_seconds {
            write.counter_of("process_cpu", "Processor time that was used", Some(&Unit::Seconds), seconds)?;
        }
        Ok(())
    }
}

/// Writes figures under their names.
struct Writer<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Writer<'_, '_> {
    /// What the figure is called, and what it is; a sentence, as the library makes one of its own.
    fn describe<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, &format!("{help}."), unit, kind)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.describe(name, help, unit, gauge.metric_type())?)
    }

    fn flag(&mut self, name: &str, help: &str, value: bool) -> fmt::Result {
        self.gauge(name, help, None, f64::from(u8::from(value)))
    }

    /// A gauge for each value of a label.
    fn gauges(&mut self, name: &str, help: &str, label: &str, values: &Values) -> fmt::Result {
        let kind = ConstGauge::new(0.0).metric_type();
        let mut family = self.describe(name, help, None, kind)?;
        for (of, value) in values {
            ConstGauge::new(*value).encode(family.encode_family(&[(label, *of)])?)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.describe(name, help, unit, counter.metric_type())?)
    }

    fn transferred(&mut self, transferred: &[Counted]) -> fmt::Result {
        let help = "Bytes of streams with peers; what goes through a relay counts there and with the relay";
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut family = self.describe("network", help, Some(&Unit::Bytes), kind)?;
        for Counted { direction, carrier, talk, bytes } in transferred {
            let labels = [("direction", direction.name()), ("transport", carrier.name()), ("protocol", talk.name())];
            ConstCounter::new(*bytes).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counter_of(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.describe(name, help, unit, counter.metric_type())?)
    }
}

/// What the system says of this process; nothing where it isn't Linux.
#[derive(Debug, Clone, Copy, Default)]
struct Process {
    resident_bytes: Option<f64>,
    open_files: Option<f64>,
    cpu_seconds: Option<f64>,
}

impl Process {
    #[cfg(target_os = "linux")]
    fn now() -> Self {
        use std::fs;
        // The name of the program stands in brackets before the numbers, and may have blanks itself (proc(5)).
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let ticks = stat.and_then(|text| {
            let mut numbers = text.rsplit_once(')')?.1.split_whitespace().skip(11);
            let (user, system): (f64, f64) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
            Some(user + system)
        });
        Self {
            resident_bytes: memory::resident_bytes().map(|bytes| bytes as f64),
            open_files: fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64),
            cpu_seconds: ticks.map(|ticks| ticks / rustix::param::clock_ticks_per_second() as f64),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn now() -> Self {
        Self::default()
    }
}

//! Every bound in one place, with its unit in its name and its reason beside it.
//!
//! Bounds that an operator may want to change are options in `config/default.toml`; these are the ones that the
//! protocols or the design fix.

use std::time::Duration;

/// The largest block, in bytes: the limit of boxo's Bitswap (`bitswap/internal/defaults`).
pub const BLOCK_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The largest Bitswap message that is read or written, in bytes: libp2p's `MessageSizeMax` as boxo uses it.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Entries of one wantlist that are looked at; the rest are ignored, as boxo ignores wants over its queue limit.
pub const WANTLIST_ENTRIES_MAX: usize = 8 * 1024;

/// Wants that are remembered for one peer, as in boxo (`MaxQueuedWantlistEntriesPerPeer`).
pub const WANTS_PER_PEER_MAX: usize = 1024;

/// The longest CID on the wire, in bytes: boxo refuses longer ones with `maxCidSize`.
pub const CID_BYTES_MAX: usize = 168;

/// Inbound Bitswap streams that are open at once on one connection. boxo opens one for every message, puts one block of
/// 16 KiB or more in it, and each of them is open for a round trip: as many as we have wants.
pub const INBOUND_STREAMS_PER_CONNECTION_MAX: usize = 1024;

/// Inbound Bitswap streams that all connections together may have open; each costs six or seven kilobytes.
pub const INBOUND_STREAMS_MAX: usize = 16 * 1024;

/// Bytes of unfinished messages that one connection may make us hold.
pub const INBOUND_BYTES_PER_CONNECTION_MAX: usize = 24 * 1024 * 1024;

/// Bytes of unfinished messages that all connections together may make us hold.
pub const INBOUND_BYTES_MAX: usize = 128 * 1024 * 1024;

/// How long an inbound stream may stand still in the middle of a message before it is reset.
pub const INBOUND_STALL_MAX: Duration = Duration::from_secs(60);

/// How long a peer may take for each [`OUTBOUND_PART_BYTES`] of a message before the stream is given up. Long, as many peers may
/// share a bounded rate.
pub const OUTBOUND_STALL_MAX: Duration = Duration::from_secs(120);

/// What a message is written in, for the time that it may take.
pub const OUTBOUND_PART_BYTES: usize = 64 * 1024;

/// Bytes of blocks that are packed in one answer; one block more than this still goes alone.
pub const ANSWER_BYTES_TARGET: usize = 512 * 1024;

/// Answers that are read ahead of the wire for one peer.
pub const ANSWERS_AHEAD_PER_PEER_MAX: usize = 2;

/// Depth of nesting inside one block (dag-cbor, dag-json).
pub const NODE_DEPTH_MAX: usize = 1024;

/// Links of one block: a block of 2 MiB that is nothing but the shortest links has fewer.
pub const LINKS_PER_BLOCK_MAX: usize = 128 * 1024;

/// Blocks that a path may lead through: a deep directory with sharded directories all the way stays far below.
pub const PATH_BLOCKS_MAX: usize = 1024;

/// Nodes of a file that a byte range may cut through: it cuts at most two on each level of a sound file.
pub const PARTIAL_NODES_MAX: usize = 4096;

/// Origins of one pin that are used; the specification's limit, further ones are cut.
pub const ORIGINS_MAX: usize = 20;

/// Delegates in one answer, from the specification.
pub const DELEGATES_MAX: usize = 20;

/// Characters in the name of a pin, from the specification.
pub const NAME_CHARS_MAX: usize = 255;

/// Key-value pairs in the `meta` of a pin, from the specification.
pub const META_PAIRS_MAX: usize = 1000;

/// Bytes of all keys and values in the `meta` of a pin.
pub const META_BYTES_MAX: usize = 64 * 1024;

/// CIDs in one `cid` filter, from the specification.
pub const FILTER_CIDS_MAX: usize = 10;

/// Pins in one page, from the specification.
pub const PAGE_PINS_MAX: usize = 1000;

/// Bytes of the text in one page; a page ends before the pin that doesn't fit. A thousand pins without much `meta` do,
/// with all their delegates.
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Lists that are read and made into text at the same time; further ones wait.
pub const LISTS_RUNNING_MAX: usize = 4;

/// Those of them that look for a part of a name, or for a name in any case.
pub const LISTS_SCANNING_MAX: usize = 2;

/// Pins whose time has come that are removed together.
pub const PINS_EXPIRED_AT_ONCE: usize = 256;

/// The longest time after which pins of an account go by themselves: ten years.
pub const PIN_LIFETIME_MAX: Duration = Duration::from_hours(10 * 365 * 24);

/// Events that wait for the webhook of one account; the oldest go.
pub const NOTICES_PER_ACCOUNT_MAX: u64 = 10_000;

/// Bytes of the events that wait for the webhook of one account; the oldest go. Ten thousand with little `meta` fit.
pub const NOTICES_BYTES_PER_ACCOUNT_MAX: u64 = 16 * 1024 * 1024;

/// Webhooks that are called at the same time, each of another account.
pub const HOOKS_CALLED_AT_ONCE: usize = 16;

/// How long a call of a webhook may take, and connecting to it.
pub const HOOK_CALL_MAX: Duration = Duration::from_secs(10);

/// Bytes of a webhook's answer that are read, so that its connection can be used again.
pub const HOOK_ANSWER_BYTES_MAX: usize = 4 * 1024;

/// Bytes of a webhook's URL.
pub const HOOK_URL_BYTES_MAX: usize = 2048;

/// Clients that are told how a pin is going while it goes; further ones are asked to look now and then.
pub const WATCHERS_MAX: usize = 256;

/// Pins in one page when the client doesn't say, from the specification.
pub const PAGE_PINS_DEFAULT: usize = 10;

/// The largest HTTP request body, in bytes: the largest `meta`, name and origins fit twice.
pub const HTTP_BODY_BYTES_MAX: usize = 256 * 1024;

/// Replaced DAGs that a chain of unfinished replaces keeps.
pub const RETAINED_ROOTS_MAX: usize = 64;

/// How far an account's newest `created` may run ahead of the clock before it has to wait.
pub const CREATED_AHEAD_MAX: Duration = Duration::from_secs(1);

/// Transactions that wait for the records' writer.
pub const RECORD_WRITES_QUEUED_MAX: usize = 1024;

/// Commands that wait for the node's event loop.
pub const NODE_COMMANDS_QUEUED_MAX: usize = 1024;

/// Roots without a provider that each newly connected peer is asked for. A peer that never answers costs about 300 bytes
/// for each.
pub const WATCHED_ROOTS_MAX: usize = 256;

/// Established connections of one peer.
pub const CONNECTIONS_PER_PEER_MAX: u32 = 8;

/// How long an orderly stop may take before the process ends anyway.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// Bytes of one origin; longer ones are skipped.
pub const ORIGIN_BYTES_MAX: usize = 1024;

/// Skipped origins that are kept with their reason, to be named in `info`; of further ones only the number is.
pub const ORIGINS_SKIPPED_MAX: usize = 20;

/// Characters of the name of a device token.
pub const TOKEN_NAME_CHARS_MAX: usize = 255;

/// Characters of an e-mail address: RFC 5321 has as many bytes (a path of 256 with its brackets).
pub const EMAIL_CHARS_MAX: usize = 254;

/// Characters of a password: more than anyone types, and little to hash.
pub const PASSWORD_CHARS_MAX: usize = 256;

/// Bytes of a password: each character has at most four.
pub const PASSWORD_BYTES_MAX: usize = 4 * PASSWORD_CHARS_MAX;

/// Passwords that are hashed at the same time, each with 19 MiB of memory.
pub const PASSWORD_HASHES_RUNNING_MAX: usize = 2;

/// Logins that wait for a password to be hashed; further ones are told to come back.
pub const PASSWORD_HASHES_QUEUED_MAX: usize = 64;

/// Tokens of an account that a login looks at to remove the expired ones, from the oldest login on: more than devices
/// have tokens without an end, and read in a few milliseconds.
pub const LOGIN_TOKENS_CHECKED_MAX: usize = 1000;

/// Device tokens of one account.
pub const TOKENS_PER_ACCOUNT_MAX: usize = 1000;

/// Logins that the list of an account's tokens shows, the newest.
pub const LOGINS_LISTED_MAX: usize = 1000;

/// Tokens whose check is remembered; each takes about half a kilobyte.
pub const SESSIONS_MAX: usize = 16 * 1024;

/// Keys that are kept for the tokens that they have signed, the one in use included.
pub const SIGNING_KEYS_MAX: usize = 16;

/// Accounts in one page of their list.
pub const PAGE_ACCOUNTS_MAX: usize = 1000;

/// Pins of an account that is being deleted which go in one commit.
pub const ACCOUNT_PINS_REMOVED_AT_ONCE: usize = 256;

/// Pairs of account and address whose failed logins are remembered.
pub const LOGIN_FAILURES_TRACKED_MAX: usize = 4096;

/// HTTP connections that are open at once; further ones wait to be accepted.
pub const HTTP_CONNECTIONS_MAX: usize = 1024;

/// HTTP connections of one address (of IPv6, of one /64) that are open at once; further ones are closed. Those of trusted
/// proxies aren't counted.
pub const HTTP_CONNECTIONS_PER_ADDRESS_MAX: usize = 256;

/// Bytes of the headers of one HTTP/2 request, counted as in RFC 9113, section 6.5.2. Over HTTP/1 a request has at most 100
/// headers, which is fixed in hyper, and [`HTTP_BUFFER_BYTES_MAX`] is the bound.
pub const HTTP_HEAD_BYTES_MAX: u32 = 16 * 1024;

/// Requests that run at once on one HTTP/2 connection.
pub const HTTP_STREAMS_PER_CONNECTION_MAX: u32 = 16;

/// Bytes that one HTTP/2 connection, and each stream of it, may send ahead of being read.
pub const HTTP_WINDOW_BYTES: u32 = 64 * 1024;

/// Bytes of one HTTP/1 connection that wait to be read; a head must fit.
pub const HTTP_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// The largest body of a request that needs no token, in bytes: an e-mail address and a password fit also when every
/// byte of them is escaped.
pub const HTTP_ANONYMOUS_BODY_BYTES_MAX: usize = 8 * 1024;

/// Bytes of bodies that all requests with a token together may make us hold; further ones wait to be read.
pub const HTTP_BODIES_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The part of them that one address may use; its further ones wait for those before.
pub const HTTP_BODIES_PER_ADDRESS_BYTES_MAX: usize = HTTP_BODIES_BYTES_MAX / 4;

/// Bytes of bodies that all requests without a token together may make us hold. They have their own, so that they
/// don't hold up the others.
pub const HTTP_ANONYMOUS_BODIES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The part of them that one address may use; its further ones wait for those before.
pub const HTTP_ANONYMOUS_BODIES_PER_ADDRESS_BYTES_MAX: usize = HTTP_ANONYMOUS_BODIES_BYTES_MAX / 16;

/// Answers of the gateway that are on their way at once; further requests are told to come back. Each holds at most the
/// blocks of two pieces.
pub const GATEWAY_ANSWERS_MAX: usize = 64;

/// Reads for the gateway that run at once; further ones wait. Each may take a moment's memory for the links of a block.
pub const GATEWAY_READS_RUNNING_MAX: usize = 4;

/// Bytes of small blocks that are read and sent together; a largest block more may go with them.
pub const GATEWAY_PIECE_BYTES: usize = 256 * 1024;

/// Pieces that are read ahead of one client.
pub const GATEWAY_PIECES_AHEAD_MAX: usize = 1;

/// Memory for what an answer has told and has still to tell, in bytes, that each answer has for itself: it lasts for about
/// 30,000 blocks.
pub const GATEWAY_WALK_BYTES_FREE: usize = 1024 * 1024;

/// The same, over that, for one answer: about two million blocks that aren't repeated.
pub const GATEWAY_WALK_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The same, over that, for all answers together.
pub const GATEWAY_WALKS_BYTES_MAX: usize = 192 * 1024 * 1024;

/// Parts of a path that the gateway follows.
pub const GATEWAY_PATH_PARTS_MAX: usize = 256;

/// Bytes of the query and of the `Accept` header of a request to the gateway.
pub const GATEWAY_QUERY_BYTES_MAX: usize = 8 * 1024;

/// Requests that one gateway is sent at once over HTTP/2, when it has shown that it keeps up. Servers commonly allow 100 to 250.
pub const RETRIEVAL_REQUESTS_PER_GATEWAY_MAX: usize = 64;

/// The same for a gateway that has only HTTP/1.1: each takes a connection, and browsers open six.
pub const RETRIEVAL_CONNECTIONS_PER_GATEWAY_MAX: usize = 6;

/// Requests that all gateways together are sent at once; further ones wait.
pub const RETRIEVAL_REQUESTS_MAX: usize = 256;

/// Bytes of answers of gateways that are being read, each counted with what it may come to; further answers wait.
pub const RETRIEVAL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Gateways that are asked, or were lately.
pub const RETRIEVAL_GATEWAYS_MAX: usize = 256;

/// Addresses of one gateway's name that are used.
pub const RETRIEVAL_ADDRESSES_MAX: usize = 8;

/// Bytes that one gateway may send ahead of being read, over all requests of a connection.
pub const RETRIEVAL_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Bytes of the headers of a gateway's answer.
pub const RETRIEVAL_HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// How long looking up a gateway's name, or connecting to it, may take.
pub const RETRIEVAL_CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long a gateway may take until its answer begins: Kubo's own gives up on a block after 30 s.
pub const RETRIEVAL_ANSWER_MAX: Duration = Duration::from_secs(35);

/// How long an answer may stand still.
pub const RETRIEVAL_STALL_MAX: Duration = Duration::from_secs(10);

/// How long the body of an answer may take: 2 MiB at about 35 kB/s.
pub const RETRIEVAL_BODY_MAX: Duration = Duration::from_mins(1);

/// The longest pause that a gateway may ask for within a fetch; one that asks for more is left alone for that long.
pub const RETRIEVAL_PAUSE_MAX: Duration = Duration::from_mins(1);

/// The longest time that a gateway may ask to be left alone.
pub const RETRIEVAL_ABSENCE_MAX: Duration = Duration::from_mins(10);

/// How long an HTTP connection may stand still in either direction, or carry no request.
pub const HTTP_IDLE_MAX: Duration = Duration::from_secs(75);

/// How long the TLS handshake of an HTTP connection may take.
pub const HTTP_TLS_HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How long the head of an HTTP/1 request may take, counted from the end of the one before.
pub const HTTP_HEAD_MAX: Duration = Duration::from_mins(1);

/// How long the body of an HTTP request may take.
pub const HTTP_BODY_MAX: Duration = Duration::from_secs(30);

/// How long running HTTP requests may take at a stop; less than [`SHUTDOWN_MAX`].
pub const HTTP_DRAIN_MAX: Duration = Duration::from_secs(2);

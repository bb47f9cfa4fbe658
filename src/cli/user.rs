//! `pinnace user`: accounts.

use std::io::IsTerminal;

use bytesize::ByteSize;
use jiff::{Span, SpanRelativeTo, Timestamp};
use reqwest::Method;
use serde_json::Value;

use super::CliError;
use super::client::{Client, ControlError, ProcessArguments, segment};
use super::output::{age, clean, print, print_json, table};
use super::secret;
use crate::http::admin::accounts::{Account, AccountList, NewUser, QuotaJson, RoleJson, UserChange};
use crate::http::{LastTry, MadeWebhook, NewWebhook, Webhook};
use crate::model::limits::{PAGE_ACCOUNTS_MAX, PIN_LIFETIME_MAX};

/// `pinnace user …`
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make an account; its password is asked for, or read from standard input
    Add(Add),
    /// List the accounts, with what they have pinned and may pin
    List(List),
    /// Let the tokens of an account authorise nothing; its pins stay
    Disable(One),
    /// Let the tokens of an account work again
    Enable(One),
    /// Delete an account with its tokens and pins
    Delete(Delete),
    /// Show or set how much an account may pin
    Quota(Quota),
    /// Show or set how long pins of an account last whose clients don't say; those that are there keep their times
    Lifetime(Lifetime),
    /// Show or set where an account is told what becomes of its pins
    Webhook(WebhookOf),
    /// Set a new password, which is asked for or read from standard input; the logins of the account end
    Password(One),
    /// Make an account an admin's, or a user's
    Role(RoleOf),
}

/// Flags of `pinnace user add`.
#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// Its e-mail address
    email: String,
    /// Let it do everything that the operator may
    #[arg(long)]
    admin: bool,
    #[command(flatten)]
    bounds: Bounds,
    /// How long its pins last whose clients don't say, such as 30d; "none" for ever
    #[arg(long, value_name = "DURATION", value_parser = bound_lifetime)]
    lifetime: Option<Bound>,
    /// Print the account as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// How much an account may pin.
#[derive(Debug, clap::Args)]
struct Bounds {
    /// Bytes that it may pin, such as 10GiB; "default" for what the configuration says
    #[arg(long = "bytes", value_name = "SIZE", value_parser = bound_bytes)]
    bytes: Option<Bound>,
    /// Pins that it may have; "default" for what the configuration says
    #[arg(long = "pins", value_name = "NUMBER", value_parser = bound_pins)]
    pins: Option<Bound>,
}

/// A bound of the account's own, or the configuration's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Own(u64),
    Default,
}

impl Bound {
    fn own(self) -> Option<u64> {
        match self {
            Self::Own(number) => Some(number),
            Self::Default => None,
        }
    }
}

fn bound_bytes(text: &str) -> Result<Bound, String> {
    if text == "default" {
        return Ok(Bound::Default);
    }
    let size = text.parse::<ByteSize>().map_err(|_| "must be a size such as 10GiB, or \"default\"".to_owned())?;
    Ok(Bound::Own(size.as_u64()))
}

fn bound_pins(text: &str) -> Result<Bound, String> {
    if text == "default" {
        return Ok(Bound::Default);
    }
    text.parse().map(Bound::Own).map_err(|_| "must be a number, or \"default\"".to_owned())
}

/// Seconds; zero for ever.
fn bound_lifetime(text: &str) -> Result<Bound, String> {
    let wrong = || "must be a duration of at most ten years such as 30d or 12h, \"none\" or \"default\"".to_owned();
    match text {
        "default" => return Ok(Bound::Default),
        "none" => return Ok(Bound::Own(0)),
        _ => {}
    }
    let span: Span = text.parse().map_err(|_| wrong())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    let seconds = u64::try_from(duration.as_secs()).map_err(|_| wrong())?;
    // What is less than a second would be for ever.
    if (1..=PIN_LIFETIME_MAX.as_secs()).contains(&seconds) { Ok(Bound::Own(seconds)) } else { Err(wrong()) }
}

/// Flags of `pinnace user list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Print the accounts as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// Flags of what concerns one account.
#[derive(Debug, clap::Args)]
pub(super) struct One {
    /// The e-mail address of the account
    email: String,
    /// Print the account as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// Flags of `pinnace user delete`.
#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    /// The e-mail address of the account
    email: String,
    /// Don't ask
    #[arg(long)]
    yes: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// Flags of `pinnace user quota`.
#[derive(Debug, clap::Args)]
pub(super) struct Quota {
    /// The e-mail address of the account
    email: String,
    #[command(flatten)]
    bounds: Bounds,
    /// Print the account as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// Flags of `pinnace user lifetime`.
#[derive(Debug, clap::Args)]
pub(super) struct Lifetime {
    /// The e-mail address of the account
    email: String,
    /// Such as 30d or 12h; "none" for ever, "default" for what the configuration says
    #[arg(value_name = "DURATION", value_parser = bound_lifetime)]
    lasts: Option<Bound>,
    /// Print the account as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// Flags of `pinnace user webhook`.
#[derive(Debug, clap::Args)]
pub(super) struct WebhookOf {
    /// The e-mail address of the account
    email: String,
    /// Where events are to go; "none" to tell none any more
    url: Option<String>,
    /// Print the webhook as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// Flags of `pinnace user role`.
#[derive(Debug, clap::Args)]
pub(super) struct RoleOf {
    /// The e-mail address of the account
    email: String,
    /// user or admin
    #[arg(value_enum)]
    role: RoleName,
    /// Print the account as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// What an account may do besides working on its own pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RoleName {
    /// Nothing
    User,
    /// Everything that the operator may
    Admin,
}

impl From<RoleName> for RoleJson {
    fn from(role: RoleName) -> Self {
        match role {
            RoleName::User => Self::User,
            RoleName::Admin => Self::Admin,
        }
    }
}

/// Runs the command.
pub(super) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Add(add) => run_add(add),
        Command::List(list) => run_list(list),
        Command::Disable(one) => change(one, &UserChange { disabled: Some(true), ..UserChange::default() }, "disabled"),
        Command::Enable(one) => change(one, &UserChange { disabled: Some(false), ..UserChange::default() }, "enabled"),
        Command::Delete(delete) => run_delete(delete),
        Command::Quota(quota) => run_quota(quota),
        Command::Lifetime(lifetime) => run_lifetime(lifetime),
        Command::Webhook(webhook) => run_webhook(webhook),
        Command::Password(one) => {
            let client = one.process.client()?;
            // An address that is mistyped is told before the password is asked for.
            client.look_up(&path(&one.email), &[])?;
            let password = Some(secret::new_password()?);
            let answer =
                client.send(&Method::PATCH, &path(&one.email), &UserChange { password, ..UserChange::default() })?;
            told(one.json, &answer, &format!("{} has a new password; its logins have ended", one.email))
        }
        Command::Role(RoleOf { email, role, json, process }) => {
            let wanted = UserChange { role: Some((*role).into()), ..UserChange::default() };
            let answer = process.client()?.send(&Method::PATCH, &path(email), &wanted)?;
            let account = account(answer.clone())?;
            told(*json, &answer, &format!("{email} has the role {} now", account.role))
        }
    }
}

fn run_add(add: &Add) -> Result<(), CliError> {
    let client = add.process.client()?;
    let new = NewUser {
        email: add.email.clone(),
        password: secret::new_password()?,
        role: if add.admin { RoleJson::Admin } else { RoleJson::User },
        quota_bytes: add.bounds.bytes.and_then(Bound::own),
        quota_pins: add.bounds.pins.and_then(Bound::own),
        pin_lifetime_seconds: add.lifetime.and_then(Bound::own),
    };
    let answer = client.send(&Method::POST, "/v1/users", &new)?;
    told(add.json, &answer, &format!("{} has an account now", add.email))
}

fn run_list(list: &List) -> Result<(), CliError> {
    let accounts = all(&list.process.client()?)?;
    if list.json {
        return print_json(&serde_json::to_value(accounts).map_err(ControlError::Unexpected)?);
    }
    print(&list_text(&accounts, Timestamp::now()))
}

/// All accounts, page by page.
fn all(client: &Client) -> Result<Vec<Account>, CliError> {
    let mut accounts: Vec<Account> = Vec::new();
    loop {
        let mut query = vec![("limit", PAGE_ACCOUNTS_MAX.to_string())];
        query.extend(accounts.last().map(|last| ("after", last.id.to_string())));
        let page = client.look_up("/v1/users", &query)?;
        let page: AccountList = serde_json::from_value(page).map_err(ControlError::Unexpected)?;
        accounts.extend(page.users);
        if !page.more {
            return Ok(accounts);
        }
    }
}

fn run_delete(delete: &Delete) -> Result<(), CliError> {
    let client = delete.process.client()?;
    let account = account(client.look_up(&path(&delete.email), &[])?)?;
    if !delete.yes {
        if !std::io::stdin().is_terminal() {
            return Err(CliError::Unconfirmed {
                what: format!("delete {} and its {} pins", account.email, account.pins),
            });
        }
        let question = format!("Delete {} with its {} pins? Type yes: ", clean(&account.email), account.pins);
        if secret::answer(&question)? != "yes" {
            return print("nothing was deleted\n");
        }
    }
    client.order(&Method::DELETE, &path(&delete.email))?;
    let answer = serde_json::json!({ "email": account.email, "pins": account.pins, "status": "deleting" });
    told(
        delete.json,
        &answer,
        &format!("{} is deleted; its {} pins are removed as soon as pinnace runs", account.email, account.pins),
    )
}

fn run_quota(quota: &Quota) -> Result<(), CliError> {
    let client = quota.process.client()?;
    let Bounds { bytes, pins } = quota.bounds;
    let answer = if bytes.is_none() && pins.is_none() {
        client.look_up(&path(&quota.email), &[])?
    } else {
        let wanted = UserChange {
            quota_bytes: bytes.map(Bound::own),
            quota_pins: pins.map(Bound::own),
            ..UserChange::default()
        };
        client.send(&Method::PATCH, &path(&quota.email), &wanted)?
    };
    if quota.json {
        return print_json(&answer);
    }
    print(&quota_text(&account(answer)?))
}

fn run_lifetime(lifetime: &Lifetime) -> Result<(), CliError> {
    let client = lifetime.process.client()?;
    let answer = match lifetime.lasts {
        None => client.look_up(&path(&lifetime.email), &[])?,
        Some(bound) => {
            let wanted = UserChange { pin_lifetime_seconds: Some(bound.own()), ..UserChange::default() };
            client.send(&Method::PATCH, &path(&lifetime.email), &wanted)?
        }
    };
    if lifetime.json {
        return print_json(&answer);
    }
    print(&lifetime_text(&account(answer)?))
}

fn run_webhook(webhook: &WebhookOf) -> Result<(), CliError> {
    let WebhookOf { email, url, json, process } = webhook;
    let (client, path) = (process.client()?, format!("{}/webhook", path(email)));
    match url.as_deref() {
        None => {
            let answer = client.look_up(&path, &[])?;
            if *json {
                return print_json(&answer);
            }
            print(&webhook_text(&serde_json::from_value(answer).map_err(ControlError::Unexpected)?))
        }
        Some("none") => {
            client.order(&Method::DELETE, &path)?;
            let answer = serde_json::json!({ "email": email, "status": "removed" });
            told(*json, &answer, &format!("{email} has no webhook any more"))
        }
        Some(url) => {
            let answer = client.send(&Method::PUT, &path, &NewWebhook { url: url.to_owned() })?;
            if *json {
                return print_json(&answer);
            }
            let made: MadeWebhook = serde_json::from_value(answer).map_err(ControlError::Unexpected)?;
            let (url, secret) = (clean(&made.about.url), clean(&made.secret));
            print(&format!("{url} is told what becomes of the pins; its secret is shown only now:\n{secret}\n"))
        }
    }
}

fn change(one: &One, wanted: &UserChange, done: &str) -> Result<(), CliError> {
    let answer = one.process.client()?.send(&Method::PATCH, &path(&one.email), wanted)?;
    told(one.json, &answer, &format!("{} is {done}", one.email))
}

fn path(email: &str) -> String {
    format!("/v1/users/{}", segment(email))
}

fn account(answer: Value) -> Result<Account, ControlError> {
    serde_json::from_value(answer).map_err(ControlError::Unexpected)
}

/// Says what was done, or prints the answer.
fn told(json: bool, answer: &Value, sentence: &str) -> Result<(), CliError> {
    if json { print_json(answer) } else { print(&format!("{}\n", clean(sentence))) }
}

fn bounds(QuotaJson { bytes, pins }: QuotaJson) -> (String, String) {
    let none = || "no bound".to_owned();
    (bytes.map_or_else(none, |bytes| ByteSize(bytes).to_string()), pins.map_or_else(none, |pins| pins.to_string()))
}

fn list_text(accounts: &[Account], now: Timestamp) -> String {
    if accounts.is_empty() {
        return "there are no accounts\n".to_owned();
    }
    let heads = ["E-MAIL", "ROLE", "STATUS", "AGE", "PINS", "OF", "PINNED", "OF"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(accounts.iter().map(|account| {
        let (bytes, pins) = bounds(account.quota);
        vec![
            clean(&account.email),
            clean(&account.role),
            clean(&account.status),
            age(&account.created, now),
            account.pins.to_string(),
            pins,
            ByteSize(account.pinned.bytes).to_string(),
            bytes,
        ]
    }));
    format!("{}\n", table(&rows).join("\n"))
}

fn quota_text(account: &Account) -> String {
    let (bytes, pins) = bounds(account.quota);
    let rows = [
        vec!["bytes".to_owned(), format!("{} of {bytes}", ByteSize(account.pinned.bytes))],
        vec!["pins".to_owned(), format!("{} of {pins}", account.pins)],
    ];
    format!("{}\n", table(&rows).join("\n"))
}

fn lifetime_text(account: &Account) -> String {
    let lasts = match account.pin_lifetime_seconds {
        None => "as long as the configuration says (pins.lifetime)".to_owned(),
        Some(0) => "for ever".to_owned(),
        Some(seconds) => span_text(seconds),
    };
    format!("pins last {lasts}, unless their clients say\n")
}

/// A duration in its largest whole unit.
fn span_text(seconds: u64) -> String {
    for (unit, name) in [(24 * 60 * 60, "d"), (60 * 60, "h"), (60, "min")] {
        if seconds.is_multiple_of(unit) {
            return format!("{} {name}", seconds / unit);
        }
    }
    format!("{seconds} s")
}

fn webhook_text(webhook: &Webhook) -> String {
    let last = match &webhook.last {
        None => "nothing was sent yet".to_owned(),
        Some(LastTry { at, error: Some(error), .. }) => format!("{}: {}", clean(at), clean(error)),
        Some(LastTry { at, status, error: None }) => {
            format!("{}: told{}", clean(at), status.map_or_else(String::new, |status| format!(" ({status})")))
        }
    };
    let rows = [
        vec!["url".to_owned(), clean(&webhook.url)],
        vec!["waiting".to_owned(), webhook.waiting.to_string()],
        vec!["last".to_owned(), last],
    ];
    format!("{}\n", table(&rows).join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::admin::accounts::Pinned;

    fn account() -> Account {
        Account {
            id: 1,
            email: "a@example.org".to_owned(),
            role: "admin".to_owned(),
            status: "active".to_owned(),
            created: "2026-01-31T11:00:00.000Z".to_owned(),
            quota: QuotaJson { bytes: Some(10 << 30), pins: None },
            pin_lifetime_seconds: None,
            pinned: Pinned { roots: 2, bytes: 3 << 20 },
            pins: 4,
        }
    }

    #[test]
    fn accounts_are_shown_with_what_they_have_and_may_have() {
        let expected = "\
E-MAIL         ROLE   STATUS  AGE  PINS  OF        PINNED   OF
a@example.org  admin  active  1 h  4     no bound  3.0 MiB  10.0 GiB
";
        assert_eq!(list_text(&[account()], "2026-01-31T12:00:00Z".parse().unwrap()), expected);
        assert_eq!(list_text(&[], Timestamp::UNIX_EPOCH), "there are no accounts\n");
        assert_eq!(quota_text(&account()), "bytes  3.0 MiB of 10.0 GiB\npins   4 of no bound\n");
    }

    #[test]
    fn bounds_are_numbers_or_the_default() {
        assert_eq!(bound_bytes("10GiB"), Ok(Bound::Own(10 << 30)));
        assert_eq!(bound_pins("7"), Ok(Bound::Own(7)));
        assert_eq!((bound_bytes("default"), bound_pins("default")), (Ok(Bound::Default), Ok(Bound::Default)));
        for text in ["", "many", "-1"] {
            bound_bytes(text).unwrap_err();
            bound_pins(text).unwrap_err();
        }
    }

    #[test]
    fn lifetimes_are_read_and_shown() {
        for (text, seconds, shown) in [
            ("30d", 2_592_000, "30 d"),
            ("4 weeks", 2_419_200, "28 d"),
            ("36h", 129_600, "36 h"),
            ("1h 30m", 5400, "90 min"),
            ("90s", 90, "90 s"),
        ] {
            assert_eq!(bound_lifetime(text), Ok(Bound::Own(seconds)), "{text}");
            assert_eq!(span_text(seconds), shown);
        }
        assert_eq!((bound_lifetime("none"), bound_lifetime("default")), (Ok(Bound::Own(0)), Ok(Bound::Default)));
        for text in ["", "30", "soon", "0s", "1ms", "-1d", "3651d"] {
            bound_lifetime(text).unwrap_err();
        }
        let shown = |pin_lifetime_seconds| lifetime_text(&Account { pin_lifetime_seconds, ..account() });
        assert_eq!(shown(Some(86_400)), "pins last 1 d, unless their clients say\n");
        assert_eq!(shown(Some(0)), "pins last for ever, unless their clients say\n");
        assert!(shown(None).contains("configuration"));
    }

    #[test]
    fn a_webhook_is_shown_with_how_it_went() {
        let at = "2026-01-31T11:00:00.000Z".to_owned();
        let mut webhook = Webhook { url: "https://example.org/hook".into(), set: at.clone(), waiting: 3, last: None };
        assert_eq!(
            webhook_text(&webhook),
            "url      https://example.org/hook\nwaiting  3\nlast     nothing was sent yet\n"
        );
        webhook.last = Some(LastTry { at: at.clone(), status: Some(204), error: None });
        assert!(webhook_text(&webhook).ends_with("last     2026-01-31T11:00:00.000Z: told (204)\n"));
        webhook.last = Some(LastTry { at, status: Some(500), error: Some("it answers 500".into()) });
        assert!(webhook_text(&webhook).ends_with("last     2026-01-31T11:00:00.000Z: it answers 500\n"));
    }

    #[test]
    fn an_address_stays_one_part_of_the_path() {
        assert_eq!(path("a+b@example.org"), "/v1/users/a+b@example.org");
        assert_eq!(path("../pins?x#y"), "/v1/users/..%2Fpins%3Fx%23y");
        assert_eq!(path(".."), "/v1/users/%2E%2E");
    }
}

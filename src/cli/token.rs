//! `pinnace token` and `pinnace key`: what authorises requests.

use jiff::Timestamp;
use reqwest::Method;
use uuid::Uuid;

use super::CliError;
use super::client::{Client, ControlError, ProcessArguments, segment};
use super::output::{age, clean, print, print_json, table};
use crate::http::admin::accounts::AccountList;
use crate::http::admin::keys::{KeyRotation, Rotate};
use crate::http::{Kind, MadeToken, NewToken, Scope, TokenList};

/// `pinnace token …`
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a token for a device, such as for `ipfs pin remote service add`; its text is shown only now
    Create(Create),
    /// List the tokens of an account that authorise requests
    List(List),
    /// Revoke a token; it stops working at once
    Revoke(Revoke),
}

/// Flags of `pinnace token create`.
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// The name of the device
    name: String,
    /// E-mail address of the account [default: the account that was made first]
    #[arg(long, value_name = "EMAIL")]
    user: Option<String>,
    /// What the token may be used for: read, write, or both with a comma between
    #[arg(long, value_name = "SCOPE", value_delimiter = ',', value_enum, default_value = "read,write")]
    scope: Vec<ScopeName>,
    /// Days until the token ends [default: never]
    #[arg(long, value_name = "DAYS")]
    expires_in_days: Option<u32>,
    /// Print the token and what it is as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// What a token may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ScopeName {
    /// Requests that change nothing
    Read,
    /// Requests that change something
    Write,
}

impl From<ScopeName> for Scope {
    fn from(name: ScopeName) -> Self {
        match name {
            ScopeName::Read => Self::Read,
            ScopeName::Write => Self::Write,
        }
    }
}

/// Flags of `pinnace token list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// E-mail address of the account [default: the account that was made first]
    #[arg(long, value_name = "EMAIL")]
    user: Option<String>,
    /// Print the tokens as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// Flags of `pinnace token revoke`.
#[derive(Debug, clap::Args)]
pub(super) struct Revoke {
    /// The id of the token, as the list shows it
    id: Uuid,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// `pinnace key …`
#[derive(Debug, clap::Subcommand)]
pub(super) enum KeyCommand {
    /// Make a new key that signs tokens from now on; tokens that are out stay valid until they expire
    Rotate(RotateArguments),
}

/// Flags of `pinnace key rotate`.
#[derive(Debug, clap::Args)]
pub(super) struct RotateArguments {
    /// Forget the older keys, so that every token stops: for when somebody else may know a key
    #[arg(long)]
    forget_old: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    process: ProcessArguments,
}

/// Runs the command.
pub(super) fn run(command: &Command) -> Result<(), CliError> {
    match command {
        Command::Create(create) => {
            let client = create.process.client()?;
            let new = NewToken {
                name: create.name.clone(),
                scopes: Some(create.scope.iter().copied().map(Scope::from).collect()),
                expires_in_days: create.expires_in_days,
            };
            let answer = client.send(&Method::POST, &path(&client, create.user.as_deref())?, &new)?;
            if create.json {
                return print_json(&answer);
            }
            // Alone on its line, so that a script can take it as it is.
            let made: MadeToken = serde_json::from_value(answer).map_err(ControlError::Unexpected)?;
            print(&format!("{}\n", clean(&made.token)))
        }
        Command::List(list) => {
            let client = list.process.client()?;
            let answer = client.look_up(&path(&client, list.user.as_deref())?, &[])?;
            if list.json {
                return print_json(&answer);
            }
            let list: TokenList = serde_json::from_value(answer).map_err(ControlError::Unexpected)?;
            print(&list_text(&list, Timestamp::now()))
        }
        Command::Revoke(Revoke { id, json, process }) => {
            process.client()?.order(&Method::DELETE, &format!("/v1/tokens/{id}"))?;
            if *json {
                return print_json(&serde_json::json!({ "id": id.to_string(), "status": "revoked" }));
            }
            print(&format!("token {id} is revoked\n"))
        }
    }
}

/// Runs the command.
pub(super) fn run_key(command: &KeyCommand) -> Result<(), CliError> {
    let KeyCommand::Rotate(RotateArguments { forget_old, json, process }) = command;
    let answer = process.client()?.send(&Method::POST, "/v1/keys/rotate", &Rotate { forget_old: *forget_old })?;
    if *json {
        return print_json(&answer);
    }
    let done: KeyRotation = serde_json::from_value(answer).map_err(ControlError::Unexpected)?;
    print(&rotation_text(done))
}

fn rotation_text(KeyRotation { key, kept, forgotten }: KeyRotation) -> String {
    let keys = |number: usize| if number == 1 { "1 older key".to_owned() } else { format!("{number} older keys") };
    let mut text = format!("new tokens are signed with key {key} from now on\n");
    if kept > 0 {
        text = format!("{text}tokens of {} stay valid until they expire\n", keys(kept));
    }
    if forgotten > 0 {
        text = format!("{text}tokens of {} have stopped: log in again, or make new ones\n", keys(forgotten));
    }
    text
}

/// Where the tokens of an account are; of the one that was made first if none is named.
fn path(client: &Client, user: Option<&str>) -> Result<String, CliError> {
    let email = match user {
        Some(email) => email.to_owned(),
        None => {
            let first = client.look_up("/v1/users", &[("limit", "1".to_owned())])?;
            let first: AccountList = serde_json::from_value(first).map_err(ControlError::Unexpected)?;
            first.users.into_iter().next().ok_or(CliError::NoAccount)?.email
        }
    };
    Ok(format!("/v1/users/{}/tokens", segment(&email)))
}

fn list_text(list: &TokenList, now: Timestamp) -> String {
    if list.tokens.is_empty() {
        return "the account has no tokens\n".to_owned();
    }
    let mut rows = vec![["ID", "NAME", "SCOPES", "AGE", "LAST USED", "EXPIRES"].map(str::to_owned).to_vec()];
    rows.extend(list.tokens.iter().map(|token| {
        let scopes: Vec<&str> = token
            .scopes
            .iter()
            .map(|scope| match scope {
                Scope::Read => "read",
                Scope::Write => "write",
            })
            .collect();
        let name = match (token.kind, &token.name) {
            (Kind::Device, Some(name)) => clean(name),
            _ => "(login)".to_owned(),
        };
        vec![
            clean(&token.id),
            name,
            scopes.join(","),
            age(&token.created, now),
            token.last_used.as_deref().map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(at, now))),
            clean(token.expires.as_deref().unwrap_or("never")),
        ]
    }));
    format!("{}\n", table(&rows).join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Token;

    #[test]
    fn tokens_are_shown_with_their_use() {
        let token = Token {
            id: "0190".to_owned(),
            kind: Kind::Device,
            name: Some("laptop".to_owned()),
            scopes: vec![Scope::Read, Scope::Write],
            created: "2026-01-31T11:00:00.000Z".to_owned(),
            expires: None,
            last_used: Some("2026-01-31T11:59:00.000Z".to_owned()),
        };
        let login = Token { kind: Kind::Access, name: None, last_used: None, ..token.clone() };
        let expected = "\
ID    NAME     SCOPES      AGE  LAST USED  EXPIRES
0190  laptop   read,write  1 h  1 min ago  never
0190  (login)  read,write  1 h  never      never
";
        let list = TokenList { tokens: vec![token, login] };
        assert_eq!(list_text(&list, "2026-01-31T12:00:00Z".parse().unwrap()), expected);
    }

    #[test]
    fn a_rotation_says_what_becomes_of_tokens() {
        let kept = rotation_text(KeyRotation { key: 1, kept: 1, forgotten: 0 });
        assert!(kept.ends_with("tokens of 1 older key stay valid until they expire\n"), "{kept}");
        let forgotten = rotation_text(KeyRotation { key: 3, kept: 0, forgotten: 2 });
        assert!(forgotten.contains("tokens of 2 older keys have stopped"), "{forgotten}");
    }
}

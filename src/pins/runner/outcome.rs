//! What a try that ended without its DAG means for a pin, in a code and a sentence for its owner.

use cid::Cid;

use crate::dag::walk::WalkError;
use crate::model::{Failure, FailureCode, PinRecord};
use crate::pins::board::Progress;
use crate::pins::origins::Tried;

/// Problems that the sentence tells; further ones are only in the list of those tried.
const PROBLEMS_IN_SENTENCE_MAX: usize = 3;

/// The failure of a DAG that can't become whole, whoever has it.
pub(super) fn of_dag(error: &WalkError) -> Failure {
    let code = match error {
        WalkError::Invalid { .. } => FailureCode::BlockInvalid,
        WalkError::Unsupported { .. } | WalkError::UnsupportedRoot { .. } => FailureCode::Unsupported,
        WalkError::TooLarge { .. } | WalkError::TooManyBytes { .. } => FailureCode::TooLarge,
        WalkError::TooDeep { .. } => FailureCode::TooDeep,
    };
    Failure { code, sentence: error.to_string(), tried: Vec::new() }
}

/// The failure of a DAG with a block that the operator doesn't want here.
pub(super) fn of_denied(root: &Cid, cid: &Cid) -> Failure {
    let what = if root.hash() == cid.hash() { "this CID".to_owned() } else { format!("{cid}, a block of this DAG") };
    let sentence = format!(
        "the denylist of this service's operator has {what}, so it is neither fetched nor served here; if that is a mistake, ask the operator"
    );
    Failure { code: FailureCode::Denied, sentence, tried: Vec::new() }
}

/// The failure of a pin for which nobody delivered.
///
/// `asked` says how the last look-up for further providers went, if there was one.
pub(super) fn of_stall(
    record: &PinRecord,
    had_provider: bool,
    tried: &Tried,
    asked: Option<&str>,
    progress: &Progress,
) -> Failure {
    let reached = format!("{} of {} known blocks are here", progress.blocks_fetched, progress.blocks_known);
    let (code, sentence) = if had_provider && progress.last_block_at.is_none() {
        (FailureCode::Stalled, format!("nobody who was asked for the content sent any of it; {reached}"))
    } else if had_provider {
        (FailureCode::Stalled, format!("the peers that had the content stopped sending; {reached}"))
    } else if tried.found > 0 && tried.found_connected + tried.connected == 0 {
        let sentence = format!(
            "{} peers are said to have the content, and none of them can be reached; {reached}. Keep a node that has it connected to one of the delegates",
            tried.found
        );
        (FailureCode::Unreachable, sentence)
    } else if record.origins.is_empty() && tried.found > 0 {
        let sentence = format!(
            "no origins were given, and of {} peers that are said to have the content none sent any of it; {reached}. Keep a node that has it connected to one of the delegates",
            tried.found
        );
        (FailureCode::NoProvider, sentence)
    } else if record.origins.is_empty() {
        let sentence = format!(
            "no origins were given and no connected peer has the content; {reached}. Keep a node that has it connected to one of the delegates"
        );
        (FailureCode::NoProvider, sentence)
    } else if tried.connected > 0 {
        let sentence = format!(
            "{} of the {} origins can be asked, and none of them has the content; no other connected peer has it either; {reached}. Give a node that has it as an origin",
            tried.connected, tried.named
        );
        (FailureCode::NoProvider, sentence)
    } else if tried.peers == 0 {
        let sentence = format!("none of the origins could be asked and no other peer has the content; {reached}");
        (FailureCode::Unreachable, sentence)
    } else {
        let sentence = format!(
            "none of the origins can be reached and no other connected peer has the content; {reached}. Keep the node that has it running, and connected to one of the delegates"
        );
        (FailureCode::Unreachable, sentence)
    };
    let mut sentence = sentence;
    if let Some(asked) = asked {
        sentence.push_str("; ");
        sentence.push_str(asked);
    }
    for problem in tried.problems.iter().take(PROBLEMS_IN_SENTENCE_MAX) {
        sentence.push_str("; ");
        sentence.push_str(problem);
    }
    let tried = tried.all.iter().cloned().chain(asked.map(str::to_owned)).collect();
    Failure { code, sentence, tried }
}

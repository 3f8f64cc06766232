//! From a request at any node to the leader and back.
//!
//! Invariant: `Answer` comes after the version that decided the request is in force at this node.
//! Invariant: a request by which we give up slots is repeated until its end is known, and they stay stopped (S2).

use super::{Change, Context, Outcome, Refusal, Request, apply};
use crate::core::Core;
use crate::effect::{Effect, Peer};
use crate::quorum::{Pending, Role};
use crate::topology::{Ballot, Primary};
use crate::wire::Message;
use proto::{Boot, Epoch, Mono, NodeId, Now, SlotRange};
use std::collections::BTreeMap;

/// Requests of one node under way. Choice: a resharding tool sends a handful at a time.
const OUTSTANDING_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct Submissions {
    next_id: u64,
    open: BTreeMap<u64, Outstanding>,
    pub hand_over: Option<HandOverWait>,
}

#[derive(Debug)]
struct Outstanding {
    origin: Origin,
    request: Request,
    tries: u32,
    next_try: Mono,
    deadline: Mono,
    hint: Option<NodeId>,
    decided: Option<(Outcome, Epoch)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    Client(u64),
    Own,
    /// A joining node waits for the outcome.
    Join {
        node: NodeId,
        join: u64,
        reply_to: Peer,
    },
}

/// A replica that waits to become primary.
#[derive(Debug)]
pub(crate) struct HandOverWait {
    pub token: u64,
    pub shard: proto::ShardId,
    pub deadline: Mono,
}

impl Submissions {
    pub fn new(boot: Boot) -> Submissions {
        // Numbers of an earlier life are never used again, so that no old answer fits.
        Submissions { next_id: boot.0 << 32, open: BTreeMap::new(), hand_over: None }
    }
    pub fn next_deadline(&self) -> Mono {
        let open = self.open.values().map(|o| o.next_try.min(o.deadline));
        let hand_over = self.hand_over.iter().map(|h| h.deadline);
        open.chain(hand_over).min().unwrap_or(Mono(u64::MAX))
    }
    pub fn has_join(&self, node: NodeId, join: u64) -> bool {
        self.open
            .values()
            .any(|o| matches!(&o.origin, Origin::Join { node: n, join: j, .. } if (*n, *j) == (node, join)))
    }
    /// Ends everything; the tokens that still wait.
    pub fn clear(&mut self) -> Vec<u64> {
        let hand_over = self.hand_over.take().map(|h| h.token);
        let open = std::mem::take(&mut self.open).into_values();
        let tokens = open.filter_map(|o| match o.origin {
            Origin::Client(token) => Some(token),
            _ => None,
        });
        tokens.chain(hand_over).collect()
    }
}

impl Core {
    pub(crate) fn on_decide(&mut self, now: Now, token: u64, request: Request, out: &mut Vec<Effect>) {
        if let Err(refusal) = self.judge_here(&request) {
            out.push(Effect::Answer { token, result: Err(refusal) });
            return;
        }
        if matches!(&request, Request::Replicate { node, .. } if *node == self.record.node) {
            // Our shard ends: nobody should have to wait for its lease.
            self.release_tenure(out);
        }
        self.submit(now, Origin::Client(token), request, out);
    }

    /// What our own version already refuses need not travel, and must not cost a tenure.
    fn judge_here(&self, request: &Request) -> Result<(), Refusal> {
        if matches!(request, Request::Forget { node } if *node == self.record.node) {
            return Err(Refusal::ForgetSelf);
        }
        let gives_up = matches!(request, Request::Replicate { .. }) || !self.given_up(request).is_empty();
        if !gives_up {
            return Ok(());
        }
        let ctx = Context {
            ballot: Ballot::default(),
            is_retry: false,
            promises: &self.promises,
            pool: &[],
            mutation: None,
        };
        apply(&self.record.topology, request, &ctx).map(|change| {
            let _: Change = change;
        })
    }

    pub(crate) fn submit_own(&mut self, now: Now, request: Request, out: &mut Vec<Effect>) {
        let is_open = self.submissions.open.values().any(|o| o.request == request);
        if !is_open {
            self.submit(now, Origin::Own, request, out);
        }
    }

    pub(crate) fn submit(&mut self, now: Now, origin: Origin, request: Request, out: &mut Vec<Effect>) {
        if self.submissions.open.len() >= OUTSTANDING_MAX {
            if let Origin::Client(token) = origin {
                out.push(Effect::Answer { token, result: Err(Refusal::Busy) });
            }
            return;
        }
        self.submissions.next_id += 1;
        let id = self.submissions.next_id;
        let deadline = now.mono + self.times.request_deadline;
        let open = Outstanding {
            origin,
            request,
            tries: 0,
            next_try: now.mono,
            deadline,
            hint: None,
            decided: None,
        };
        self.submissions.open.insert(id, open);
        self.refresh_stopped(out);
        self.try_submission(now, id, out);
    }

    fn try_submission(&mut self, now: Now, id: u64, out: &mut Vec<Effect>) {
        let known = self.leader().filter(|l| *l != self.record.node || self.is_leader());
        let voters: Vec<NodeId> = self.record.topology.voters.iter().map(|v| v.node).collect();
        let guess = voters[self.rng.below(voters.len() as u64) as usize];
        let Some(open) = self.submissions.open.get_mut(&id) else { return };
        open.next_try = now.mono + self.times.request_retry;
        // A leader that does not answer may be gone: every other try asks somebody else.
        let hinted = open.hint.take().or(known).filter(|_| open.tries % 2 == 0);
        let to = hinted.unwrap_or(guess);
        let message = Message::Ask { id, is_retry: open.tries > 0, request: Box::new(open.request.clone()) };
        open.tries = open.tries.saturating_add(1);
        self.send(to, message, out);
    }

    pub(crate) fn tick_submissions(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.submissions.hand_over.as_ref().is_some_and(|h| now.mono >= h.deadline) {
            let token = self.submissions.hand_over.take().expect("just seen").token;
            out.push(Effect::Answer { token, result: Err(Refusal::NotCaughtUp) });
        }
        self.tick_draining(now, out);
        let due: Vec<u64> = self
            .submissions
            .open
            .iter()
            .filter(|(_, o)| now.mono >= o.next_try.min(o.deadline))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let open = &self.submissions.open[&id];
            let (is_late, request) = (now.mono >= open.deadline, open.request.clone());
            if !is_late {
                self.try_submission(now, id, out);
            } else if self.given_up(&request).is_empty() {
                self.complete(id, Err(Refusal::NoQuorum), out);
            } else {
                // S2: only a decision ends it. The client hears that it is unknown.
                let deadline = now.mono + self.times.request_deadline;
                let open = self.submissions.open.get_mut(&id).expect("just seen");
                open.deadline = deadline;
                if let Origin::Client(token) = std::mem::replace(&mut open.origin, Origin::Own) {
                    out.push(Effect::Answer { token, result: Err(Refusal::NoQuorum) });
                }
            }
        }
    }

    pub(crate) fn on_ask(
        &mut self,
        now: Now,
        from: Primary,
        id: u64,
        is_retry: bool,
        request: Request,
        out: &mut Vec<Effect>,
    ) {
        let hint = self.leader().filter(|l| *l != self.record.node);
        let Role::Leader(leader) = &mut self.role else {
            self.send(from.node, Message::NotLeader { id, leader: hint }, out);
            return;
        };
        let key = (from, id);
        if let Some((_, result)) = leader.answered.iter().find(|(k, _)| *k == key) {
            let message = Message::Answer { id, result: result.clone() };
            self.send(from.node, message, out);
            return;
        }
        let is_same = |p: &Pending| p.from == from && p.id == id;
        let is_proposed = leader.proposal.as_ref().is_some_and(|p| p.pending.iter().any(is_same));
        if is_proposed || leader.queue.iter().any(is_same) {
            return;
        }
        if leader.queue.len() >= crate::quorum::QUEUE_MAX {
            self.send(from.node, Message::Answer { id, result: Err(Refusal::Busy) }, out);
            return;
        }
        leader.queue.push_back(Pending { from, id, is_retry, request, outcome: Outcome::Done });
        self.pump(now, out);
    }

    pub(crate) fn on_not_leader(&mut self, now: Now, id: u64, leader: Option<NodeId>) {
        let me = self.record.node;
        if let Some(open) = self.submissions.open.get_mut(&id)
            && let Some(leader) = leader.filter(|l| *l != me)
            && open.tries < 64
        {
            open.hint = Some(leader);
            // An even number of tries makes the next one follow the hint.
            open.tries += open.tries % 2;
            open.next_try = open.next_try.min(now.mono + self.times.resend);
        }
    }

    pub(crate) fn on_answer(
        &mut self,
        now: Now,
        id: u64,
        result: Result<(Outcome, Epoch), Refusal>,
        out: &mut Vec<Effect>,
    ) {
        let _ = now;
        match result {
            Err(refusal) => self.complete(id, Err(refusal), out),
            Ok(decided) => {
                if let Some(open) = self.submissions.open.get_mut(&id) {
                    open.decided = Some(decided);
                    self.settle_submissions(out);
                }
            }
        }
    }

    /// Answers what is decided and in force here.
    pub(crate) fn settle_submissions(&mut self, out: &mut Vec<Effect>) {
        let ver = self.record.topology.ver;
        let settled: Vec<(u64, Outcome)> = self
            .submissions
            .open
            .iter()
            .filter_map(|(id, o)| {
                o.decided.clone().filter(|(_, v)| *v <= ver).map(|(outcome, _)| (*id, outcome))
            })
            .collect();
        for (id, outcome) in settled {
            self.complete(id, Ok(outcome), out);
        }
        let shard = self.tenure.as_ref().map(|t| t.shard);
        if let Some(wait) = self.submissions.hand_over.take_if(|h| Some(h.shard) == shard) {
            out.push(Effect::Answer { token: wait.token, result: Ok(Outcome::Done) });
        }
        self.refresh_stopped(out);
    }

    fn complete(&mut self, id: u64, result: Result<Outcome, Refusal>, out: &mut Vec<Effect>) {
        let Some(open) = self.submissions.open.remove(&id) else { return };
        self.refresh_stopped(out);
        match open.origin {
            Origin::Client(token) => out.push(Effect::Answer { token, result }),
            Origin::Own => {}
            Origin::Join { join, reply_to, .. } => self.on_join_outcome(join, reply_to, result, out),
        }
    }

    /// Slots of ours that a request gives away.
    fn given_up(&self, request: &Request) -> Vec<SlotRange> {
        let topo = &self.record.topology;
        let Some(mine) = topo.tenure_of(self.me()) else { return Vec::new() };
        match request {
            Request::DelSlots { slots, .. } => slots.clone(),
            Request::FlushSlots { node } if *node == self.record.node => topo.slots_of(mine.id),
            Request::SlotTo { slot, node, .. }
                if *node != self.record.node && topo.owner(*slot) == Some(mine.id) =>
            {
                vec![SlotRange { first: *slot, last: *slot }]
            }
            _ => Vec::new(),
        }
    }

    fn refresh_stopped(&mut self, out: &mut Vec<Effect>) {
        let stopped: Vec<SlotRange> =
            self.submissions.open.values().flat_map(|o| self.given_up(&o.request)).collect();
        if stopped != self.stopped {
            self.stopped = stopped;
            out.push(Effect::Publish);
        }
    }
}

//! Requests under way.
//!
//! An entry's number and its generation are the id of a request; entry `n` owns slot `n` of
//! the shared memory. An entry whose request was given up stays taken until its answer comes
//! late or the connection ends: until then the pager may write to the slot.

use super::wire::{Kind, Message, Status};

const INDEX_BITS: u32 = 16;

/// Where a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum State {
    /// Nobody's.
    #[default]
    Free,
    /// Somebody waits for the answer.
    Waiting,
    /// The answer is there; who waited has the slot until it says [`Table::free`].
    Answered(Answer),
    /// The connection ended before an answer.
    Broken,
    /// Nobody waits any more, and the pager may still answer.
    Abandoned,
}

/// What came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// An answer that fits the request.
    Fits(Message),
    /// The pager answered something else.
    Misfit,
}

/// What a message did to the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// The request with this index is answered.
    Answered(usize),
    /// It came too late; a slot is free again.
    Late,
    /// Nobody asked, or it is the second answer.
    Stray,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    generation: u64,
    state: State,
    asked: Option<Message>,
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Table {
    entries: Box<[Entry]>,
}

impl Table {
    pub(super) fn new(entries: usize) -> Table {
        Table { entries: vec![Entry::default(); entries].into() }
    }

    /// Takes a free entry: its index, and the id for the request.
    pub(super) fn take(&mut self) -> Option<(usize, u64)> {
        let index = self.entries.iter().position(|e| e.state == State::Free)?;
        let e = &mut self.entries[index];
        // Id 0 is nobody's: generations begin with 1.
        e.generation = (e.generation + 1) & (u64::MAX >> INDEX_BITS);
        e.generation += u64::from(e.generation == 0);
        e.state = State::Waiting;
        e.asked = None;
        Some((index, e.generation << INDEX_BITS | index as u64))
    }
    /// What the request with this index asks: its answer is compared with it.
    pub(super) fn ask(&mut self, index: usize, asked: Message) {
        self.entries[index].asked = Some(asked);
    }
    pub(super) fn state(&self, index: usize) -> State {
        self.entries[index].state
    }
    pub(super) fn free(&mut self, index: usize) {
        self.entries[index].state = State::Free;
    }
    /// Nobody waits any more.
    pub(super) fn abandon(&mut self, index: usize) {
        self.entries[index].state = State::Abandoned;
    }
    /// Requests that are under way or have no slot back yet.
    pub(super) fn taken(&self) -> usize {
        self.entries.iter().filter(|e| e.state != State::Free).count()
    }

    /// An answer came.
    pub(super) fn answer(&mut self, m: &Message) -> Effect {
        let index = (m.id & ((1 << INDEX_BITS) - 1)) as usize;
        let Some(e) = self.entries.get_mut(index) else { return Effect::Stray };
        if e.generation != m.id >> INDEX_BITS {
            return Effect::Stray;
        }
        match (e.state, e.asked) {
            (State::Waiting, Some(asked)) => {
                let answer = if fits(&asked, m) { Answer::Fits(*m) } else { Answer::Misfit };
                e.state = State::Answered(answer);
                Effect::Answered(index)
            }
            (State::Abandoned, _) => {
                e.state = State::Free;
                Effect::Late
            }
            _ => Effect::Stray,
        }
    }

    /// The connection is no more: nothing will be answered.
    pub(super) fn break_all(&mut self) {
        for e in &mut self.entries {
            e.state = match e.state {
                State::Waiting => State::Broken,
                State::Abandoned => State::Free,
                other => other,
            };
        }
    }

    /// The pager has destroyed an object: who waits for it has the answer. Calls `f` with the
    /// index of each such request. Its slot may still be written, so only its waiting ends.
    pub(super) fn destroyed(&mut self, object: u64, mut f: impl FnMut(usize)) {
        for (i, e) in self.entries.iter_mut().enumerate() {
            if let (State::Waiting, Some(asked)) = (e.state, e.asked)
                && asked.object == object
            {
                e.state = State::Answered(Answer::Fits(asked.answer(Kind::DataError, Status::Gone)));
                f(i);
            }
        }
    }
}

/// Is `m` an answer to `asked`? Ids are equal.
fn fits(asked: &Message, m: &Message) -> bool {
    let same = m.object == asked.object;
    let prefix = m.offset == asked.offset && m.size <= asked.size;
    same && match (asked.kind, m.kind) {
        (Kind::DataRequest, Kind::DataSupply) => prefix && m.place == asked.place,
        (Kind::DataRequest, Kind::DataUnavailable | Kind::DataError) => prefix,
        (Kind::DataReturn, Kind::ReturnCompleted)
        | (Kind::Synchronize, Kind::SynchronizeCompleted)
        | (Kind::Init, Kind::Ready | Kind::Refused | Kind::CreateProxy) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machvm_hal::PAGE_SIZE;

    fn request(id: u64) -> Message {
        Message {
            id,
            offset: PAGE_SIZE,
            size: 2 * PAGE_SIZE,
            place: 7 * PAGE_SIZE,
            access: 1,
            ..Message::about(Kind::DataRequest, 5)
        }
    }
    fn supply(id: u64) -> Message {
        Message { kind: Kind::DataSupply, access: 0, ..request(id) }
    }

    #[test]
    fn an_answer_counts_once_and_for_its_own_request() {
        let mut t = Table::new(2);
        let (i, id) = t.take().expect("free");
        t.ask(i, request(id));
        for wrong in [0, id + 1, id ^ 1 << 40, u64::MAX] {
            assert_eq!(t.answer(&supply(wrong)), Effect::Stray, "{wrong:#x}");
        }
        assert_eq!(t.state(i), State::Waiting);
        assert_eq!(t.answer(&supply(id)), Effect::Answered(i));
        assert_eq!(t.state(i), State::Answered(Answer::Fits(supply(id))));
        assert_eq!(t.answer(&supply(id)), Effect::Stray, "the second answer");
        t.free(i);
        assert_eq!(t.answer(&supply(id)), Effect::Stray, "after the end");
        let (again, next) = t.take().expect("free");
        t.ask(again, request(next));
        assert_eq!((again, t.answer(&supply(id))), (i, Effect::Stray), "the slot's last user");
    }

    #[test]
    fn what_does_not_fit_answers_nothing() {
        let good = supply(0);
        let misfits = [
            Message { object: 6, ..good },
            Message { offset: 0, ..good },
            Message { size: 3 * PAGE_SIZE, ..good },
            Message { place: 0, ..good },
            Message { kind: Kind::ReturnCompleted, ..good },
            Message { kind: Kind::Ready, ..good },
        ];
        for m in misfits {
            let mut t = Table::new(1);
            let (i, id) = t.take().expect("free");
            t.ask(i, request(id));
            assert_eq!(t.answer(&Message { id, ..m }), Effect::Answered(i));
            assert_eq!(t.state(i), State::Answered(Answer::Misfit), "{m:?}");
        }
    }

    #[test]
    fn a_slot_given_up_is_not_used_before_its_answer() {
        let mut t = Table::new(1);
        let (i, id) = t.take().expect("free");
        t.ask(i, request(id));
        t.abandon(i);
        assert_eq!(t.take(), None);
        assert_eq!(t.answer(&supply(id)), Effect::Late);
        assert_eq!(t.answer(&supply(id)), Effect::Stray);
        assert!(t.take().is_some());
        t.abandon(i);
        t.break_all();
        assert_eq!(t.taken(), 0);
    }

    #[test]
    fn a_destroyed_object_ends_its_waiting_only() {
        let mut t = Table::new(2);
        let ids = [5, 6].map(|object| {
            let (i, id) = t.take().expect("free");
            t.ask(i, Message { object, ..request(id) });
            i
        });
        let mut ended = Vec::new();
        t.destroyed(5, |i| ended.push(i));
        assert_eq!(ended, [ids[0]]);
        assert_eq!(t.state(ids[1]), State::Waiting);
    }
}

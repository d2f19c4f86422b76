//! Who may write an object.
//!
//! A lease is a value that its holder renews and anybody may read. Whoever has watched it
//! for its whole length, by his own clock, without seeing a renewal may take it, with the
//! next *epoch*. No two clocks are compared. And it does not matter if a holder was only
//! slow: what makes his late writes harmless is that his epoch is in every key that he
//! writes, and that heads are replaced by compare and swap, which the next holder does
//! before anything else.

use std::time::{Duration, Instant};

use super::super::cas::Tagged;
use super::super::engine::{Engine, EngineError};
use super::ObjectError;
use crate::sum::checksum;

/// Numbers that are noted together, before they are used.
const AHEAD: u64 = 256;

/// What the lease says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Terms {
    pub(super) epoch: u32,
    /// Numbers of this epoch that may have been used are below.
    pub(super) numbers: u64,
    /// How long it is good without being renewed.
    pub(super) length: Duration,
    /// Nobody has it.
    pub(super) free: bool,
    /// Grows.
    beat: u64,
    /// Who has it: nobody else has this number.
    holder: u128,
    /// The same for people.
    pub(super) who: String,
}

impl Terms {
    fn emit(&self) -> Vec<u8> {
        let ms = self.length.as_millis();
        let Terms { epoch, numbers, free, beat, holder, who, .. } = self;
        let text = format!(
            "machvm lease 1\nepoch {epoch}\nnumbers {numbers}\nms {ms}\nfree {free}\nbeat {beat}\nholder {holder:032x}\n{who}\n"
        );
        format!("{text}{:016x}\n", checksum(text.as_bytes(), 1)).into_bytes()
    }
    fn parse(bytes: &[u8]) -> Option<Terms> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (body, sum) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        if u64::from_str_radix(sum, 16).ok()? != checksum(format!("{body}\n").as_bytes(), 1) {
            return None;
        }
        let mut lines = body.strip_prefix("machvm lease 1\n")?.lines();
        let mut word = |name: &str| lines.next()?.strip_prefix(name).map(str::to_owned);
        Some(Terms {
            epoch: word("epoch ")?.parse().ok()?,
            numbers: word("numbers ")?.parse().ok()?,
            length: Duration::from_millis(word("ms ")?.parse().ok()?),
            free: word("free ")?.parse().ok()?,
            beat: word("beat ")?.parse().ok()?,
            holder: u128::from_str_radix(&word("holder ")?, 16).ok()?,
            who: lines.next().unwrap_or_default().to_owned(),
        })
    }
}

fn who() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("process {} on {}", std::process::id(), host.trim())
}

/// A lease that is held.
pub(super) struct Lease {
    key: String,
    tagged: Tagged,
    pub(super) terms: Terms,
    /// The last renewal that succeeded began then.
    pub(super) renewed: Instant,
}

impl Lease {
    /// Takes the lease, waiting at most `wait` for who has it. Also gives what it said before.
    ///
    /// # Errors
    /// [`ObjectError::Held`]; the server's.
    pub(super) async fn take(
        engine: &Engine,
        key: String,
        length: Duration,
        wait: Duration,
    ) -> Result<(Lease, Option<Terms>), ObjectError> {
        let begun = Instant::now();
        let mut seen: Option<(Tagged, Instant)> = None;
        loop {
            let now = engine.load(&key).await?;
            let terms = match &now {
                None => None,
                Some(t) => {
                    Some(Terms::parse(&t.bytes).ok_or_else(|| ObjectError::Damaged("its lease".into()))?)
                }
            };
            // A quarter more, for clocks that do not run alike.
            let over = |since: &Instant, t: &Terms| since.elapsed() > t.length + t.length / 4;
            let may = match (&terms, &now, &seen) {
                (None, ..) => true,
                (Some(t), ..) if t.free => true,
                (Some(t), Some(now), Some((then, since))) if now == then => over(since, t),
                _ => {
                    seen = now.clone().map(|t| (t, Instant::now()));
                    false
                }
            };
            if may {
                let renewed = Instant::now();
                let mine = Terms::taken(terms.as_ref(), length)?;
                match engine.replace(&key, now.as_ref(), mine.emit()).await {
                    Ok(tagged) => return Ok((Lease { key, tagged, terms: mine, renewed }, terms)),
                    Err(EngineError::Changed) => continue,
                    Err(e) => return Err(e.into()),
                }
            }
            if begun.elapsed() >= wait {
                let (who, for_) = terms.map_or((String::new(), length), |t| (t.who, t.length));
                return Err(ObjectError::Held { who, length: for_ });
            }
            let pause = (length / 16).clamp(Duration::from_millis(5), Duration::from_millis(500));
            tokio::time::sleep(pause).await;
        }
    }

    /// Renews it, and notes that numbers below `numbers` may be used.
    ///
    /// # Errors
    /// [`ObjectError::LeaseLost`]: somebody else has it. The server's: it may be held still.
    pub(super) async fn renew(&mut self, engine: &Engine, numbers: u64) -> Result<(), ObjectError> {
        let begun = Instant::now();
        let mut next = self.terms.clone();
        next.beat += 1;
        if numbers > next.numbers {
            next.numbers = numbers + AHEAD;
        }
        self.replace(engine, next).await?;
        self.renewed = begun;
        Ok(())
    }

    /// Gives it up.
    pub(super) async fn release(&mut self, engine: &Engine) -> Result<(), ObjectError> {
        let next = Terms { free: true, beat: self.terms.beat + 1, ..self.terms.clone() };
        self.replace(engine, next).await
    }

    async fn replace(&mut self, engine: &Engine, next: Terms) -> Result<(), ObjectError> {
        match engine.replace(&self.key, Some(&self.tagged), next.emit()).await {
            Ok(tagged) => {
                (self.tagged, self.terms) = (tagged, next);
                Ok(())
            }
            Err(EngineError::Changed) => {
                // It may be our own, of an attempt that was given up.
                let now = engine.load(&self.key).await?;
                let terms = now.as_ref().and_then(|t| Terms::parse(&t.bytes));
                match (now, terms) {
                    (Some(tagged), Some(t)) if t.holder == self.terms.holder && !t.free => {
                        (self.tagged, self.terms) = (tagged, t);
                        Err(EngineError::Away("an attempt came late".into()).into())
                    }
                    (_, t) => {
                        Err(ObjectError::LeaseLost { epoch: self.terms.epoch, now: t.map_or(0, |t| t.epoch) })
                    }
                }
            }
            Err(e) => Err(e.into()),
        }
    }
}

impl Terms {
    fn taken(old: Option<&Terms>, length: Duration) -> Result<Terms, ObjectError> {
        let mut holder = [0; 16];
        getrandom::fill(&mut holder).map_err(|e| ObjectError::Engine(EngineError::Refused(e.to_string())))?;
        let last = old.map_or(0, |t| t.epoch);
        let epoch = last
            .checked_add(1)
            .ok_or_else(|| ObjectError::Damaged("its lease: no epochs are left".into()))?;
        let holder = u128::from_le_bytes(holder);
        Ok(Terms { epoch, numbers: AHEAD, length, free: false, beat: 0, holder, who: who() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_come_back_and_other_things_are_none() {
        let first = Terms::taken(None, Duration::from_millis(1500)).expect("random numbers");
        assert_eq!(Terms::parse(&first.emit()), Some(first.clone()));
        let second = Terms::taken(Some(&first), first.length).expect("random numbers");
        assert_eq!((second.epoch, second.holder == first.holder), (2, false));
        let text = first.emit();
        for i in 0..text.len() {
            let mut bad = text.clone();
            bad[i] ^= 2;
            assert_eq!(Terms::parse(&bad), None, "byte {i}");
            assert_eq!(Terms::parse(&text[..i]), None, "{i} bytes");
        }
    }
}

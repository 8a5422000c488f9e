//! The records beside the two ends of calls: how far a call has come, who did not answer it, what came after its end, whose an
//! object is; and, within a call's room, for whom it is.

use super::{Draft, Fields, HEADER_BYTES, Header, Kind};
use filters::attribution::Attribution;
use filters::denied::Code;
use filters::id::{CallId, KeyId, OrgId};
use filters::money::NanoUsd;
use filters::objects::{OBJECT_ID_BYTES_MAX, Object, ObjectKind};
use filters::ports::{Amendment, FailedAttempt, Progress, QUOTAS_MAX};
use filters::time::EpochMs;

/// Which of the two records of an attribution it is.
const USER: u32 = 0;
const TAGS: u32 = 1;

impl Draft {
    pub(in super::super) fn progress(progress: &Progress) -> Self {
        let mut draft = Self::new(Kind::Progress, progress.sequence, progress.call);
        draft.put(&progress.reserved.0.to_le_bytes());
        draft.put(&progress.charge.0.to_le_bytes());
        draft.put_usage(&progress.usage);
        draft.standing_alone()
    }

    pub(in super::super) fn attempt(attempt: &FailedAttempt) -> Self {
        let mut draft = Self::new(Kind::Attempt, u32::from(attempt.number), attempt.call);
        draft.put(&attempt.status.to_le_bytes());
        draft.put(&[attempt.error.map_or(0, |code| code as u8)]);
        draft.put(&attempt.at.0.to_le_bytes());
        draft.put_name(&attempt.provider);
        draft.standing_alone()
    }

    pub(in super::super) fn amendment(amendment: &Amendment) -> Self {
        let shares = &amendment.shares[..amendment.shares.len().min(QUOTAS_MAX)];
        debug_assert_eq!(shares.len(), amendment.shares.len(), "a chain has at most QUOTAS_MAX quotas of money");
        let mut draft = Self::new(Kind::Amend, amendment.sequence, amendment.call);
        draft.put(&amendment.key.0.to_le_bytes());
        draft.put(&amendment.org.0.to_le_bytes());
        draft.put(&amendment.charge.0.to_le_bytes());
        draft.put(&amendment.at.0.to_le_bytes());
        draft.put_shares(shares);
        draft.put_usage(&amendment.usage);
        draft.standing_alone()
    }

    /// The id is known to be short enough: a longer one is nobody's.
    pub(in super::super) fn claim(object: &Object) -> Self {
        let id = &object.id[..object.id.floor_char_boundary(OBJECT_ID_BYTES_MAX)];
        let mut draft = Self::new(Kind::Claim, 0, object.call);
        draft.put(&object.key.0.to_le_bytes());
        draft.put(&object.org.0.to_le_bytes());
        draft.put(&object.credential.to_le_bytes());
        draft.put(&[object.kind as u8]);
        draft.put(&object.at.0.to_le_bytes());
        draft.put_name(&object.provider);
        draft.put(&(id.len() as u16).to_le_bytes());
        draft.put(id.as_bytes());
        draft.standing_alone()
    }

    /// For whom a call is, and for what: one record each, because both would be too long for one.
    pub(in super::super) fn attribution(call: CallId, attribution: &Attribution) -> impl Iterator<Item = Self> {
        let lists = [(USER, attribution.user.as_slice()), (TAGS, &attribution.tags)];
        lists.into_iter().filter(|(_, texts)| !texts.is_empty()).map(move |(sequence, texts)| {
            let mut draft = Self::new(Kind::Attribution, sequence, call);
            draft.put(&[texts.len() as u8]);
            for text in texts {
                draft.put(&(text.len() as u16).to_le_bytes());
                draft.put(text.as_bytes());
            }
            draft.standing_alone()
        })
    }

    /// Its room is its own length and no more.
    fn standing_alone(mut self) -> Self {
        let room = self.slots_bytes();
        self.set_room(room);
        self
    }
}

/// The fields of a checked progress record.
pub(in super::super) fn read_progress(record: &[u8], header: &Header) -> Option<Progress> {
    let mut fields = Fields { rest: record.get(HEADER_BYTES..header.length)? };
    Some(Progress {
        call: header.call,
        sequence: header.sequence,
        reserved: NanoUsd(i64::from_le_bytes(fields.take()?)),
        charge: NanoUsd(i64::from_le_bytes(fields.take()?)),
        usage: fields.usage()?,
    })
}

/// The fields of a checked attempt.
pub(in super::super) fn read_attempt(record: &[u8], header: &Header) -> Option<FailedAttempt> {
    let mut fields = Fields { rest: record.get(HEADER_BYTES..header.length)? };
    Some(FailedAttempt {
        call: header.call,
        number: u8::try_from(header.sequence).ok()?,
        status: u16::from_le_bytes(fields.take()?),
        error: match fields.byte()? {
            0 => None,
            code => Some(Code::from_byte(code)?),
        },
        at: EpochMs(i64::from_le_bytes(fields.take()?)),
        provider: fields.name()?,
    })
}

/// The fields of a checked amendment.
pub(in super::super) fn read_amendment(record: &[u8], header: &Header) -> Option<Amendment> {
    let mut fields = Fields { rest: record.get(HEADER_BYTES..header.length)? };
    Some(Amendment {
        call: header.call,
        sequence: header.sequence,
        key: KeyId(u128::from_le_bytes(fields.take()?)),
        org: OrgId(u128::from_le_bytes(fields.take()?)),
        charge: NanoUsd(i64::from_le_bytes(fields.take()?)),
        at: EpochMs(i64::from_le_bytes(fields.take()?)),
        shares: fields.shares(header.format)?,
        usage: fields.usage()?,
    })
}

/// The fields of a checked claim.
pub(in super::super) fn read_claim(record: &[u8], header: &Header) -> Option<Object> {
    let mut fields = Fields { rest: record.get(HEADER_BYTES..header.length)? };
    Some(Object {
        call: header.call,
        key: KeyId(u128::from_le_bytes(fields.take()?)),
        org: OrgId(u128::from_le_bytes(fields.take()?)),
        credential: u16::from_le_bytes(fields.take()?),
        kind: ObjectKind::from_byte(fields.byte()?)?,
        at: EpochMs(i64::from_le_bytes(fields.take()?)),
        provider: fields.name()?,
        id: {
            let length = u16::from_le_bytes(fields.take()?);
            str::from_utf8(fields.rest.get(..usize::from(length))?).ok()?.into()
        },
    })
}

/// Adds the fields of a checked record of an attribution.
pub(in super::super) fn read_attribution(record: &[u8], header: &Header, attribution: &mut Attribution) -> Option<()> {
    let mut fields = Fields { rest: record.get(HEADER_BYTES..header.length)? };
    let count = fields.byte()?;
    let mut texts = Vec::new();
    for _ in 0..count {
        let length = usize::from(u16::from_le_bytes(fields.take()?));
        let (text, rest) = fields.rest.split_at_checked(length)?;
        fields.rest = rest;
        texts.push(str::from_utf8(text).ok()?.into());
    }
    match header.sequence {
        USER => attribution.user = texts.pop(),
        TAGS => attribution.tags = texts,
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PLACE, shares, usages};
    use super::super::{Flaw, RECORD_BYTES_MAX, SLOT_BYTES, check};
    use super::*;
    use filters::id::CallId;
    use filters::ports::NAME_BYTES_MAX;
    use filters::usage::{Kind as UsageKind, Usage};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_field_of_a_note_comes_back(
            ids in any::<(u128, u128, u128, u32, u8)>(),
            numbers in any::<(i64, i64, u16)>(),
            error in 0..=Code::ALL.len(),
            provider in "[a-z0-9-]{0,128}",
            parts in (shares(), usages()),
        ) {
            let (call, (shares, usage)) = (CallId(ids.0), parts);
            let [first, second] = [numbers.0, numbers.1];
            let progress =
                Progress { call, sequence: ids.3, reserved: NanoUsd(first), usage, charge: NanoUsd(second) };
            let mut draft = Draft::progress(&progress);
            let bytes = draft.at(PLACE);
            let header = check(bytes, PLACE).expect("a whole record");
            prop_assert_eq!((header.kind, header.room % SLOT_BYTES), (Kind::Progress, 0));
            prop_assert_eq!(read_progress(bytes, &header), Some(progress));

            let error = Code::ALL.get(error).copied();
            let attempt =
                FailedAttempt { call, number: ids.4, provider: provider.into(), status: numbers.2, error, at: EpochMs(first) };
            let mut draft = Draft::attempt(&attempt);
            let bytes = draft.at(PLACE);
            let header = check(bytes, PLACE).expect("a whole record");
            prop_assert_eq!(header.kind, Kind::Attempt);
            prop_assert_eq!(read_attempt(bytes, &header), Some(attempt));

            let amendment = Amendment {
                call, sequence: ids.3, key: KeyId(ids.1), org: OrgId(ids.2), usage, charge: NanoUsd(first), shares,
                at: EpochMs(second),
            };
            let mut draft = Draft::amendment(&amendment);
            let bytes = draft.at(PLACE);
            let header = check(bytes, PLACE).expect("a whole record");
            prop_assert_eq!(header.kind, Kind::Amend);
            prop_assert_eq!(read_amendment(bytes, &header), Some(amendment));
        }

        #[test]
        fn every_field_of_a_claim_comes_back(
            ids in any::<(u128, u128, u128)>(),
            numbers in any::<(i64, u16)>(),
            names in ("[ -~]{0,256}", "[a-z0-9-]{0,128}"),
            kind in proptest::sample::select(&ObjectKind::ALL),
        ) {
            let object = Object {
                id: names.0.into(),
                kind,
                org: OrgId(ids.2),
                key: KeyId(ids.1),
                call: CallId(ids.0),
                provider: names.1.into(),
                credential: numbers.1,
                at: EpochMs(numbers.0),
            };
            let mut draft = Draft::claim(&object);
            let bytes = draft.at(PLACE);
            let header = check(bytes, PLACE).expect("a whole record");
            prop_assert_eq!(header.kind, Kind::Claim);
            prop_assert_eq!(read_claim(bytes, &header), Some(object));
        }

        #[test]
        fn any_bytes_of_a_note_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let header =
                Header { kind: Kind::Amend, format: 2, length: bytes.len(), room: 0, sequence: 0, call: CallId(0) };
            let _ = (read_progress(&bytes, &header), read_attempt(&bytes, &header), read_amendment(&bytes, &header));
            let _ = read_claim(&bytes, &header);
        }
    }

    #[test]
    fn the_largest_notes_fit_a_record() {
        let usage = Usage { counts: [u64::MAX; UsageKind::ALL.len()] };
        let share = filters::ports::Share { quota: filters::id::QuotaId(i64::MAX), period: EpochMs(i64::MAX) };
        let amendment = Amendment {
            call: CallId(1),
            sequence: u32::MAX,
            key: KeyId(u128::MAX),
            org: OrgId(u128::MAX),
            usage,
            charge: NanoUsd(i64::MIN),
            shares: vec![share; QUOTAS_MAX],
            at: EpochMs(i64::MAX),
        };
        let mut draft = Draft::amendment(&amendment);
        assert!(draft.slots_bytes() <= RECORD_BYTES_MAX);
        let mut bytes = draft.at(PLACE).to_vec();
        bytes[HEADER_BYTES] ^= 1;
        assert_eq!(check(&bytes, PLACE), Err(Flaw::Broken));
        let object = Object {
            id: "é".repeat(OBJECT_ID_BYTES_MAX).into(),
            kind: ObjectKind::File,
            org: OrgId(u128::MAX),
            key: KeyId(u128::MAX),
            call: CallId(1),
            provider: "p".repeat(NAME_BYTES_MAX + 100).into(),
            credential: u16::MAX,
            at: EpochMs(0),
        };
        assert!(Draft::claim(&object).slots_bytes() <= RECORD_BYTES_MAX);
        let attempt = FailedAttempt {
            call: CallId(1),
            number: 255,
            provider: "p".repeat(NAME_BYTES_MAX + 100).into(),
            status: u16::MAX,
            error: None,
            at: EpochMs(0),
        };
        assert!(Draft::attempt(&attempt).slots_bytes() <= 192);
    }
}

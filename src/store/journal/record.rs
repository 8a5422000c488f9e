//! One record of the journal: a header with a CRC-32 over everything, then the fields, little-endian. `notes` are the
//! records that stand alone.
//!
//! ```text
//!  0 magic u32 │ 4 length u16 │ 6 kind u8 │ 7 format u8 │ 8 crc u32 │ 12 segment u32 │ 16 offset u32
//! 20 sequence within the call u32 │ 24 room u32 │ 28 call u128 │ 44 fields …
//! ```
//! The first eight bytes are one word, written last. Segment and offset are in it so that a record that lies anywhere
//! but where it was written is not believed.

mod notes;

pub(super) use notes::{read_amendment, read_attempt, read_attribution, read_claim, read_progress};

use filters::denied::Code;
use filters::id::{CallId, KeyId, OrgId, PriceId, QuotaId};
use filters::money::NanoUsd;
use filters::ports::{Intent, NAME_BYTES_MAX, Outcome, QUOTAS_MAX, Share, Terminal};
use filters::price::Tier;
use filters::route::Route;
use filters::time::EpochMs;
use filters::usage::{Kind as UsageKind, Usage};
use std::sync::Arc;

/// Records begin at multiples of this.
pub(super) const SLOT_BYTES: usize = 64;
/// No record is longer.
pub(super) const RECORD_BYTES_MAX: usize = 640;
/// What a terminal takes at most: its fixed fields, the longest provider name, a full varint for each kind of usage.
pub(super) const TERMINAL_ROOM_BYTES: usize =
    slots_bytes(HEADER_BYTES + 43 + (1 + NAME_BYTES_MAX) + 2 + COUNT_BYTES_MAX * UsageKind::ALL.len());

/// A count in its longest form: 63 bits, as many as the books hold.
const COUNT_BYTES_MAX: usize = 9;
const COUNT_MAX: u64 = i64::MAX as u64;

const HEADER_BYTES: usize = 44;
const MAGIC: [u8; 4] = *b"TgJr";
const FORMAT: u8 = 2;
/// The format of the release before, which is read too.
const FORMAT_BEFORE: u8 = 1;
const CRC_AT: usize = 8;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Intent = 1,
    Terminal = 2,
    /// How far an open call has come; the last one is what it is recovered by.
    Progress = 3,
    /// Usage that came after its call's terminal.
    Amend = 4,
    /// Nothing was written here before a crash; recovery says so, that a later look finds no gap.
    Void = 5,
    /// A candidate that did not answer.
    Attempt = 6,
    /// Whose an object is that a provider stores.
    Claim = 7,
    /// For whom and for what a call is, in the call's own room behind the place of its terminal: whoever does not know of it steps over
    /// it with the room.
    Attribution = 128,
    /// Anything from here on is a later release's, stands alone, and may be done without: it is passed over, and counted.
    Later = 129,
}

/// Where a record lies in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) segment: u64,
    pub(super) offset: usize,
}

/// A record's header, once its CRC and its place have been found right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// Of this release or of the one before.
    pub(super) format: u8,
    pub(super) length: usize,
    /// What the call takes from its intent's first byte on; for a void, how much is void; for a note, its own slots.
    pub(super) room: usize,
    /// Which of its kind within the call it is.
    pub(super) sequence: u32,
    pub(super) call: CallId,
}

/// Why there is no record at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Nothing has been published there.
    Empty,
    /// Something is there, but not what was written.
    Broken,
    /// It is whole, and of a kind or format that only a later release knows.
    Newer(u8),
}

/// The length in whole slots.
pub(super) const fn slots_bytes(length: usize) -> usize {
    length.div_ceil(SLOT_BYTES) * SLOT_BYTES
}

/// A record in the making. It can be written once it is told its place.
pub(super) struct Draft {
    bytes: [u8; RECORD_BYTES_MAX],
    length: usize,
}

impl Draft {
    pub(super) fn intent(intent: &Intent) -> Self {
        let shares = &intent.shares[..intent.shares.len().min(QUOTAS_MAX)];
        debug_assert_eq!(shares.len(), intent.shares.len(), "a chain has at most QUOTAS_MAX quotas of money");
        let mut draft = Self::new(Kind::Intent, 0, intent.call);
        draft.put(&intent.key.0.to_le_bytes());
        draft.put(&intent.org.0.to_le_bytes());
        draft.put(&[intent.route as u8, u8::from(intent.streamed)]);
        draft.put(&intent.price.0.to_le_bytes());
        draft.put(&intent.started.0.to_le_bytes());
        draft.put(&intent.reserved.0.to_le_bytes());
        draft.put(&intent.recovery_charge.0.to_le_bytes());
        draft.put(&intent.input_estimate.to_le_bytes());
        draft.put_name(&intent.model);
        draft.put_name(&intent.provider);
        draft.put_shares(shares);
        draft
    }

    pub(super) fn terminal(terminal: &Terminal) -> Self {
        let mut draft = Self::new(Kind::Terminal, 1, terminal.call);
        draft.put(&[terminal.outcome as u8, u8::from(terminal.estimated)]);
        draft.put(&terminal.status.to_le_bytes());
        draft.put(&[terminal.error.map_or(0, |code| code as u8), terminal.tier as u8, terminal.attempts]);
        draft.put(&terminal.price.0.to_le_bytes());
        draft.put(&terminal.charge.0.to_le_bytes());
        draft.put(&terminal.reserved.0.to_le_bytes());
        draft.put(&terminal.ended.0.to_le_bytes());
        draft.put(&terminal.first_byte_ms.to_le_bytes());
        draft.put_name(&terminal.provider);
        draft.put_usage(&terminal.usage);
        draft
    }

    pub(super) fn void(room: usize) -> Self {
        let mut draft = Self::new(Kind::Void, 0, CallId(0));
        draft.set_room(room);
        draft
    }

    /// What the record takes, in whole slots.
    pub(super) fn slots_bytes(&self) -> usize {
        slots_bytes(self.length)
    }

    /// Says how much the whole call takes.
    pub(super) fn set_room(&mut self, room: usize) {
        self.bytes[24..28].copy_from_slice(&(room as u32).to_le_bytes());
    }

    /// The finished record, for that place and no other.
    pub(super) fn at(&mut self, position: Position) -> &[u8] {
        self.bytes[4..6].copy_from_slice(&(self.length as u16).to_le_bytes());
        self.bytes[12..16].copy_from_slice(&(position.segment as u32).to_le_bytes());
        self.bytes[16..20].copy_from_slice(&(position.offset as u32).to_le_bytes());
        let record = &mut self.bytes[..self.length];
        let crc = crc_of(record);
        record[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        record
    }

    fn new(kind: Kind, sequence: u32, call: CallId) -> Self {
        let mut draft = Self { bytes: [0; RECORD_BYTES_MAX], length: HEADER_BYTES };
        draft.bytes[..4].copy_from_slice(&MAGIC);
        draft.bytes[6] = kind as u8;
        draft.bytes[7] = FORMAT;
        draft.bytes[20..24].copy_from_slice(&sequence.to_le_bytes());
        draft.bytes[28..44].copy_from_slice(&call.0.to_le_bytes());
        draft
    }

    fn put(&mut self, field: &[u8]) {
        self.bytes[self.length..self.length + field.len()].copy_from_slice(field);
        self.length += field.len();
    }

    /// The catalogue refuses longer names, so the cut is only what keeps the room's bound true whatever comes.
    fn put_name(&mut self, name: &str) {
        let kept = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
        self.put(&[kept.len() as u8]);
        self.put(kept.as_bytes());
    }

    fn put_shares(&mut self, shares: &[Share]) {
        self.put(&[shares.len() as u8]);
        for share in shares {
            self.put(&share.quota.0.to_le_bytes());
            self.put(&share.period.0.to_le_bytes());
        }
    }

    /// Most kinds are zero in most calls: a bit for each kind that is not, then those counts, seven bits a byte.
    fn put_usage(&mut self, usage: &Usage) {
        let used = usage.counts.iter().enumerate().filter(|(_, count)| **count != 0);
        let mask = used.fold(0u16, |mask, (kind, _)| mask | 1 << kind);
        self.put(&mask.to_le_bytes());
        for count in usage.counts.into_iter().filter(|count| *count != 0) {
            let mut rest = count.min(COUNT_MAX);
            while rest >= 0x80 {
                self.put(&[rest as u8 | 0x80]);
                rest >>= 7;
            }
            self.put(&[rest as u8]);
        }
    }
}

/// Everything but the CRC itself.
fn crc_of(record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[..CRC_AT]);
    hasher.update(&record[CRC_AT + 4..]);
    hasher.finalize()
}

/// Looks at what begins `bytes`, which were read at `position` and may go on past the record.
pub(super) fn check(bytes: &[u8], position: Position) -> Result<Header, Flaw> {
    match bytes.first_chunk::<8>() {
        None | Some([0, 0, 0, 0, 0, 0, 0, 0]) => return Err(Flaw::Empty),
        Some(_) => {}
    }
    let length = length_of(bytes).ok_or(Flaw::Broken)?;
    let record = bytes.get(..length).ok_or(Flaw::Broken)?;
    let placed = u32_at(record, 12) == position.segment as u32 && u32_at(record, 16) as usize == position.offset;
    if !placed || u32_at(record, CRC_AT) != crc_of(record) {
        return Err(Flaw::Broken);
    }
    const ATTRIBUTION: u8 = Kind::Attribution as u8;
    let kind = match record[6] {
        ATTRIBUTION if record[7] == FORMAT => Kind::Attribution,
        later if later >= ATTRIBUTION => Kind::Later,
        newer if !matches!(record[7], FORMAT | FORMAT_BEFORE) => return Err(Flaw::Newer(newer)),
        1 => Kind::Intent,
        2 => Kind::Terminal,
        3 => Kind::Progress,
        4 => Kind::Amend,
        5 => Kind::Void,
        6 => Kind::Attempt,
        7 => Kind::Claim,
        newer => return Err(Flaw::Newer(newer)),
    };
    let call = record[28..44].first_chunk().copied().map(u128::from_le_bytes).unwrap_or_default();
    let (room, sequence) = (room_of(record), u32_at(record, 20));
    Ok(Header { kind, format: record[7], length, room, sequence, call: CallId(call) })
}

/// The length that a published record gives itself, if it can be true.
pub(super) fn length_of(bytes: &[u8]) -> Option<usize> {
    let head = bytes.first_chunk::<8>()?;
    let length = usize::from(u16::from_le_bytes([head[4], head[5]]));
    (head[..4] == MAGIC && (HEADER_BYTES..=RECORD_BYTES_MAX).contains(&length)).then_some(length)
}

/// The room that a record of at least a header's length names.
fn room_of(record: &[u8]) -> usize {
    u32_at(record, 24) as usize
}

/// What a published record takes and what its whole call takes, for a reader that trusts the writer.
pub(super) fn extent(record: &[u8]) -> Option<(usize, usize)> {
    let extent = (slots_bytes(record.len()), record.get(..HEADER_BYTES).map(room_of)?);
    (extent.1 >= extent.0).then_some(extent)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().copied().map(u32::from_le_bytes).unwrap_or_default()
}

/// The fields of a checked intent, without what stands behind its terminal; `None` if a release that is not this one wrote them.
pub(super) fn read_intent(record: &[u8], header: &Header) -> Option<Intent> {
    let mut fields = Fields { rest: record.get(HEADER_BYTES..header.length)? };
    Some(Intent {
        call: header.call,
        key: KeyId(u128::from_le_bytes(fields.take()?)),
        org: OrgId(u128::from_le_bytes(fields.take()?)),
        route: Route::from_byte(fields.byte()?)?,
        streamed: fields.byte()? != 0,
        price: PriceId(u64::from_le_bytes(fields.take()?)),
        started: EpochMs(i64::from_le_bytes(fields.take()?)),
        reserved: NanoUsd(i64::from_le_bytes(fields.take()?)),
        recovery_charge: NanoUsd(i64::from_le_bytes(fields.take()?)),
        input_estimate: u64::from_le_bytes(fields.take()?),
        model: fields.name()?,
        provider: fields.name()?,
        shares: fields.shares(header.format)?,
        attribution: None,
    })
}

/// The fields of a checked terminal; `None` if a release that is not this one wrote them.
pub(super) fn read_terminal(record: &[u8], header: &Header) -> Option<Terminal> {
    let mut fields = Fields { rest: record.get(HEADER_BYTES..header.length)? };
    Some(Terminal {
        call: header.call,
        outcome: Outcome::from_byte(fields.byte()?)?,
        estimated: fields.byte()? != 0,
        status: u16::from_le_bytes(fields.take()?),
        error: match fields.byte()? {
            0 => None,
            code => Some(Code::from_byte(code)?),
        },
        tier: tier_of(fields.byte()?)?,
        attempts: fields.byte()?,
        price: PriceId(u64::from_le_bytes(fields.take()?)),
        charge: NanoUsd(i64::from_le_bytes(fields.take()?)),
        // The format before did not say: then it is the intent's.
        reserved: NanoUsd(if header.format == FORMAT_BEFORE { 0 } else { i64::from_le_bytes(fields.take()?) }),
        ended: EpochMs(i64::from_le_bytes(fields.take()?)),
        first_byte_ms: u32::from_le_bytes(fields.take()?),
        provider: fields.name()?,
        usage: fields.usage()?,
    })
}

fn tier_of(byte: u8) -> Option<Tier> {
    Tier::ALL.into_iter().find(|tier| *tier as u8 == byte)
}

struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*field)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn shares(&mut self, format: u8) -> Option<Vec<Share>> {
        let count = self.byte()?;
        (0..count).map(|_| self.share(format)).collect()
    }

    /// The format before knew no periods.
    fn share(&mut self, format: u8) -> Option<Share> {
        let quota = QuotaId(i64::from_le_bytes(self.take()?));
        let period = if format == FORMAT_BEFORE { 0 } else { i64::from_le_bytes(self.take()?) };
        Some(Share { quota, period: EpochMs(period) })
    }

    fn name(&mut self) -> Option<Arc<str>> {
        let length = usize::from(self.byte()?);
        let (name, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        std::str::from_utf8(name).ok().map(Arc::from)
    }

    fn usage(&mut self) -> Option<Usage> {
        let mask = u16::from_le_bytes(self.take()?);
        if u32::from(mask) >> UsageKind::ALL.len() != 0 {
            return None;
        }
        let mut usage = Usage::default();
        for (kind, count) in usage.counts.iter_mut().enumerate() {
            if mask & 1 << kind != 0 {
                *count = self.varint()?;
            }
        }
        Some(usage)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) const PLACE: Position = Position { segment: 7, offset: 4096 };

    fn share((quota, period): (i64, i64)) -> Share {
        Share { quota: QuotaId(quota), period: EpochMs(period) }
    }

    pub(super) fn shares() -> impl Strategy<Value = Vec<Share>> {
        proptest::collection::vec(any::<(i64, i64)>().prop_map(share), 0..=QUOTAS_MAX)
    }

    prop_compose! {
        pub(super) fn usages()(
            mut counts in any::<[u64; UsageKind::ALL.len()]>(),
            used in any::<[bool; UsageKind::ALL.len()]>(),
        ) -> Usage {
            counts.iter_mut().zip(used).for_each(|(count, used)| *count = *count / 2 * u64::from(used));
            Usage { counts }
        }
    }

    prop_compose! {
        fn intents()(
            ids in any::<[u128; 3]>(),
            route in 0..Route::ALL.len(),
            streamed in any::<bool>(),
            names in (".{0,32}", "[a-z0-9-]{0,128}"),
            numbers in any::<(u64, i64, i64, i64, u64)>(),
            shares in shares(),
        ) -> Intent {
            Intent {
                call: CallId(ids[0]), key: KeyId(ids[1]), org: OrgId(ids[2]),
                route: Route::ALL[route], streamed, model: names.0.into(), provider: names.1.into(),
                price: PriceId(numbers.0), started: EpochMs(numbers.1), reserved: NanoUsd(numbers.2),
                recovery_charge: NanoUsd(numbers.3), input_estimate: numbers.4, shares, attribution: None,
            }
        }
    }

    prop_compose! {
        fn terminals()(
            call in any::<u128>(),
            outcome in 1u8..=8,
            tier in 0u8..4,
            error in 0..=Code::ALL.len(),
            provider in "[a-z0-9-]{0,128}",
            flags in any::<(bool, u16, u8, u32)>(),
            numbers in any::<(u64, i64, i64, i64)>(),
            usage in usages(),
        ) -> Terminal {
            Terminal {
                call: CallId(call), outcome: Outcome::from_byte(outcome).expect("1 to 8"), estimated: flags.0,
                status: flags.1, error: Code::ALL.get(error).copied(), provider: provider.into(),
                price: PriceId(numbers.0), tier: tier_of(tier).expect("0 to 3"), usage, charge: NanoUsd(numbers.1),
                attempts: flags.2, reserved: NanoUsd(numbers.3), ended: EpochMs(numbers.2), first_byte_ms: flags.3,
            }
        }
    }

    proptest! {
        #[test]
        fn every_field_of_an_intent_comes_back(intent in intents(), after in any::<[u8; 9]>()) {
            let mut draft = Draft::intent(&intent);
            draft.set_room(640);
            let mut bytes = draft.at(PLACE).to_vec();
            bytes.extend(after);
            let header = check(&bytes, PLACE).expect("a whole record");
            prop_assert_eq!((header.kind, header.room, header.call), (Kind::Intent, 640, intent.call));
            prop_assert_eq!(read_intent(&bytes, &header), Some(intent));
        }

        #[test]
        fn every_field_of_a_terminal_comes_back_and_fits_its_room(terminal in terminals()) {
            let mut draft = Draft::terminal(&terminal);
            prop_assert!(draft.slots_bytes() <= TERMINAL_ROOM_BYTES);
            let bytes = draft.at(PLACE);
            let header = check(bytes, PLACE).expect("a whole record");
            prop_assert_eq!(header.kind, Kind::Terminal);
            prop_assert_eq!(read_terminal(bytes, &header), Some(terminal));
        }

        #[test]
        fn a_changed_byte_is_noticed(terminal in terminals(), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut draft = Draft::terminal(&terminal);
            let mut bytes = draft.at(PLACE).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert_eq!(check(&bytes, PLACE), Err(Flaw::Broken));
        }

        #[test]
        fn any_bytes_are_looked_at_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = check(&bytes, PLACE);
            let header = Header { kind: Kind::Intent, format: FORMAT, length: bytes.len(), room: 0, sequence: 0, call: CallId(0) };
            let _ = (read_intent(&bytes, &header), read_terminal(&bytes, &header));
        }
    }

    #[test]
    fn the_largest_terminal_fills_its_room_and_no_more() {
        let terminal = Terminal {
            call: CallId(1),
            outcome: Outcome::Complete,
            estimated: false,
            status: 200,
            error: None,
            provider: "p".repeat(300).into(),
            price: PriceId(u64::MAX),
            tier: Tier::Standard,
            usage: Usage { counts: [u64::MAX; UsageKind::ALL.len()] },
            charge: NanoUsd(i64::MAX),
            reserved: NanoUsd(i64::MAX),
            attempts: 255,
            ended: EpochMs(i64::MAX),
            first_byte_ms: u32::MAX,
        };
        assert_eq!((Draft::terminal(&terminal).slots_bytes(), TERMINAL_ROOM_BYTES), (384, 384));
        assert_eq!(Draft::terminal(&terminal).length, HEADER_BYTES + 43 + 1 + NAME_BYTES_MAX + 2 + 135);
    }

    #[test]
    fn usage_of_the_release_before_is_read() {
        // Of the eleven kinds that there were: 300 input tokens, 2 cached ones, 5 output tokens, 1 search.
        let written = [0b0100_0011, 0b0000_0100, 0xac, 0x02, 2, 5, 1];
        let usage = Usage::of(300, 5).with(UsageKind::CacheRead, 2).with(UsageKind::WebSearch, 1);
        assert_eq!(Fields { rest: &written }.usage(), Some(usage));
        let mut draft = Draft::new(Kind::Terminal, 1, CallId(1));
        draft.put_usage(&usage);
        assert_eq!(draft.bytes[HEADER_BYTES..draft.length], written);
        // A kind that this release does not know.
        assert_eq!(Fields { rest: &[0, 0b1000_0000, 1] }.usage(), None);
    }

    #[test]
    fn a_record_is_believed_only_where_it_was_written() {
        let mut draft = Draft::void(128);
        let bytes = draft.at(PLACE).to_vec();
        assert!(check(&bytes, PLACE).is_ok());
        assert_eq!(check(&bytes, Position { segment: 8, ..PLACE }), Err(Flaw::Broken));
        assert_eq!(check(&bytes, Position { offset: 8192, ..PLACE }), Err(Flaw::Broken));
        assert_eq!(check(&[0; 64], PLACE), Err(Flaw::Empty));
    }
}

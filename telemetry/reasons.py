"""Why a record becomes a dead letter. The rule: a reason is a stable code, in metrics, headers and docs."""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """The number is the compiled decoder's return code; the lower-case name is what leaves the process."""

    OK = 0
    NULL_VALUE = 1
    TOO_LARGE = 2
    BAD_HEADER = 3
    UNKNOWN_FINGERPRINT = 4
    AVRO_TRUNCATED = 5
    AVRO_VARINT = 6
    AVRO_LENGTH = 7
    AVRO_TRAILING = 8
    BAD_DEVICE_ID = 9
    UNKNOWN_CATALOG = 10
    WRONG_COLUMN_COUNT = 11
    ABSURD_TIME = 12
    BAD_PERIOD = 13
    BAD_SEQ = 14
    KEY_MISMATCH = 15
    STATE_FULL = 16
    BATCH_TOO_LARGE = 17
    BATCH_CORRUPT = 18
    BATCH_CODEC = 19
    BATCH_CRC = 20
    BATCH_FORMAT = 21
    WRONG_PARTITION = 22

    @property
    def code(self) -> str:
        return self.name.lower()

    @property
    def stage(self) -> str:
        """transport: a whole batch; schema: the header; decode: the bytes; contract: what the frame says."""
        if Reason.BATCH_TOO_LARGE <= self <= Reason.BATCH_FORMAT:
            return "transport"
        if self in (Reason.BAD_HEADER, Reason.UNKNOWN_FINGERPRINT):
            return "schema"
        return "decode" if self <= Reason.AVRO_TRAILING else "contract"


TEXT: dict[Reason, str] = {
    Reason.OK: "accepted",
    Reason.NULL_VALUE: "the value is null; an input topic has no tombstones",
    Reason.TOO_LARGE: "the value is larger than the decoder's cap",
    Reason.BAD_HEADER: "the value does not begin with the Avro single-object marker C3 01",
    Reason.UNKNOWN_FINGERPRINT: "the writer's schema is not on the allow-list, by its fingerprint or registry id",
    Reason.AVRO_TRUNCATED: "the Avro data end too early",
    Reason.AVRO_VARINT: "an Avro varint is longer than 10 bytes or outside its type's range",
    Reason.AVRO_LENGTH: "an Avro length or block count is negative or larger than the bytes left",
    Reason.AVRO_TRAILING: "bytes are left over after the Avro data",
    Reason.BAD_DEVICE_ID: "the device id is not [A-Za-z0-9._:-]{1,64}",
    Reason.UNKNOWN_CATALOG: "the signal catalogue named in the frame is not known here",
    Reason.WRONG_COLUMN_COUNT: "the number of values is not a positive multiple of the catalogue's signals",
    Reason.ABSURD_TIME: "the event time lies outside the accepted range",
    Reason.BAD_PERIOD: "the period is negative, or zero with more than one step",
    Reason.BAD_SEQ: "the sequence number is negative",
    Reason.KEY_MISMATCH: "the record's key is not the frame's device id",
    Reason.STATE_FULL: "the worker holds as many devices of this class as it may",
    Reason.BATCH_TOO_LARGE: "the batch is larger than the cap when it is decompressed; the letter holds it whole",
    Reason.BATCH_CORRUPT: "the batch cannot be read from the first offset named on; the letter holds it whole",
    Reason.BATCH_CODEC: "the batch names a compression codec that Kafka does not have; the letter holds it whole",
    Reason.BATCH_CRC: "the batch does not have the checksum that it names, however often it is read",
    Reason.BATCH_FORMAT: "the batch has message format v0 or v1; formats before v2 are not read",
    Reason.WRONG_PARTITION: "the record is on another partition than its key's by the partitioner murmur2",
}

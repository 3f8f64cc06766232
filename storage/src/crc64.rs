//! CRC-64 of RDB files and DUMP payloads: polynomial 0xad93d23594c935a9 (Jones), reflected, initial value 0.

const POLY: u64 = 0x95AC_9329_AC4B_C9B5; // 0xad93d23594c935a9 with its bits reversed

/// Continues a checksum over more bytes; begin with 0. Eight bytes a step.
pub fn crc64(mut crc: u64, bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        crc ^= u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        crc = (0..8).fold(0, |acc, i| acc ^ TABLES[7 - i][(crc >> (8 * i)) as u8 as usize]);
    }
    for &b in chunks.remainder() {
        crc = TABLES[0][(crc as u8 ^ b) as usize] ^ (crc >> 8);
    }
    crc
}

static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0u64; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { (crc >> 1) ^ POLY } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[table - 1][byte];
            tables[table][byte] = tables[0][(crc & 255) as usize] ^ (crc >> 8);
            byte += 1;
        }
        table += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value_and_pieces() {
        // The check value Redis's own test prints.
        assert_eq!(crc64(0, b"123456789"), 0xE9C6_D914_C4B8_D9CA);
        let bytes: Vec<u8> = (0..300u32).map(|i| (i * 7) as u8).collect();
        for cut in [0, 1, 7, 8, 9, 150, 300] {
            assert_eq!(crc64(crc64(0, &bytes[..cut]), &bytes[cut..]), crc64(0, &bytes));
        }
    }
}

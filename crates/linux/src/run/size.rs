//! Sizes on the command line.

/// Reads a whole number of bytes, or of K, M, G, T: `4096`, `4096K`, `64M`, `1G`
/// (powers of 1024; `MiB` and `MB` mean the same as `M`).
///
/// # Errors
/// One sentence that names the value and says what to write.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(0),
        "k" | "kb" | "kib" => Some(10),
        "m" | "mb" | "mib" => Some(20),
        "g" | "gb" | "gib" => Some(30),
        "t" | "tb" | "tib" => Some(40),
        _ => None,
    };
    let Some(shift) = shift.filter(|_| !number.is_empty()) else {
        return Err(format!(
            "{text:?} is not a size: write a whole number of bytes, or one with K, M, G or T, such as 64M"
        ));
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    match bytes {
        Some(0) => Err(format!("{text:?} is no memory at all: write a size above zero, such as 64M")),
        Some(bytes) if bytes <= i64::MAX as u64 => Ok(bytes),
        _ => Err(format!("{text:?} is more than any machine has: write a smaller size, such as 64G")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("4096K"), Ok(4 << 20));
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert_eq!(parse_size("2T"), Ok(2 << 40));
    }

    #[test]
    fn what_is_no_size_is_named() {
        for text in
            ["", "M", "1.5G", "-1", "64Q", "64 M", "0", "0K", "99999999999999999999", "9000000T", " 1"]
        {
            let error = parse_size(text).unwrap_err();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}

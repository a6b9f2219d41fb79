//! Numbers as people read them: three digits and a unit.

/// `0.0123`, `1.23`, `123`, `12300`.
pub(super) fn three_digits(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    // Of the rounded value: 999.9 is shown as 1000.
    let magnitude: i32 = format!("{value:.2e}").split('e').nth(1).and_then(|power| power.parse().ok()).unwrap_or(0);
    let decimals = (2 - magnitude).clamp(0, 4) as usize;
    let beyond = 10f64.powi(magnitude - 2);
    let rounded = if magnitude > 2 { (value / beyond).round() * beyond } else { value };
    format!("{rounded:.decimals$}")
}

/// `412 k`, `1.20 M`.
pub(super) fn amount(value: f64) -> String {
    with_unit(value, &[(1e9, " G"), (1e6, " M"), (1e3, " k"), (1.0, "")])
}

/// Of microseconds: `2.43 µs`, `1.20 ms`, `3.04 s`.
pub(super) fn time(microseconds: f64) -> String {
    with_unit(microseconds, &[(1e6, " s"), (1e3, " ms"), (1.0, " µs")])
}

/// `512 B`, `8.25 kB`.
pub(super) fn bytes(value: f64) -> String {
    with_unit(value, &[(1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1.0, " B")])
}

/// Of a share: `97 %`.
pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent > 0.0 && percent < 9.5 => format!("{percent:.1} %"),
        percent => format!("{percent:.0} %"),
    }
}

/// The same without zeros at its end: `5 µs` of `5.00 µs`, for the round figures of an axis.
pub(super) fn without_zeros(shown: &str) -> String {
    let (number, unit) = shown.split_at(shown.find(' ').unwrap_or(shown.len()));
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    format!("{number}{unit}")
}

/// The largest unit that leaves at least one, else the last one.
fn with_unit(value: f64, units: &[(f64, &str)]) -> String {
    // What would be shown as 1000 of a unit is one of the next.
    let unit = units.iter().find(|(size, _)| value.abs() >= size * 0.9995).or(units.last());
    unit.map_or_else(String::new, |(size, name)| format!("{}{name}", three_digits(value / size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_of_any_size() {
        let shown: Vec<String> = [0.0, 0.01234, 0.5, 1.234, 12.34, 123.4, 1234.0].map(three_digits).to_vec();
        assert_eq!(shown, ["0", "0.0123", "0.500", "1.23", "12.3", "123", "1230"]);
    }

    #[test]
    fn units() {
        assert_eq!(amount(412_345.0), "412 k");
        assert_eq!(amount(999_900.0), "1.00 M");
        assert_eq!(amount(7.0), "7.00");
        assert_eq!(time(2.43), "2.43 µs");
        assert_eq!(time(0.5), "0.500 µs");
        assert_eq!(time(3_040_000.0), "3.04 s");
        assert_eq!(bytes(8_250.0), "8.25 kB");
        assert_eq!(bytes(-300.0), "-300 B");
        assert_eq!(without_zeros("5.00 µs"), "5 µs");
        assert_eq!(without_zeros("0.500"), "0.5");
        assert_eq!(without_zeros("500 k"), "500 k");
        assert_eq!(percent(0.97), "97 %");
        assert_eq!(percent(0.001), "0.1 %");
        assert_eq!(percent(0.0), "0 %");
    }
}

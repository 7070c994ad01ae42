import Foundation

// Chat templates run in Python when models are trained: what `str.strip` takes for white space and how `strftime` spells a
// date are part of their text.

private let whiteSpace: Set<Unicode.Scalar> = {
    let few = "\t\n\u{b}\u{c}\r\u{1c}\u{1d}\u{1e}\u{1f} \u{85}\u{a0}\u{1680}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}"
    return Set(few.unicodeScalars).union((0x2000...0x200a).compactMap(Unicode.Scalar.init))
}()

/// `str.strip()`.
func strip(_ text: String) -> String {
    text.trimmingScalars(whiteSpace)
}

private let months = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
]
private let days = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]

/// `datetime.strftime(format)` in Python's default locale; a directive that is not known here stays as it is.
func strftime(_ format: String, _ time: Date, in zone: TimeZone) -> String {
    let spelled = directives(of: time, in: zone)
    var found = ""
    var rest = format.unicodeScalars[...]
    while let scalar = rest.popFirst() {
        if scalar == "%", let directive = rest.popFirst() {
            found += spelled[directive] ?? "%\(directive)"
        } else {
            found.unicodeScalars.append(scalar)
        }
    }
    return found
}

private func directives(of time: Date, in zone: TimeZone) -> [Unicode.Scalar: String] {
    var calendar = Calendar(identifier: .gregorian)
    calendar.timeZone = zone
    let parts = calendar.dateComponents([.year, .month, .day, .hour, .minute, .second, .weekday], from: time)
    let (month, day) = (months[parts.month! - 1], days[parts.weekday! - 1])
    let hour = parts.hour!
    return [
        "%": "%",
        "a": String(day.prefix(3)),
        "A": day,
        "b": String(month.prefix(3)),
        "B": month,
        "d": digits(parts.day!),
        "H": digits(hour),
        "I": digits((hour + 11) % 12 + 1),
        "j": digits(calendar.ordinality(of: .day, in: .year, for: time)!, 3),
        "m": digits(parts.month!),
        "M": digits(parts.minute!),
        "p": hour < 12 ? "AM" : "PM",
        "S": digits(parts.second!),
        "y": digits(parts.year! % 100),
        "Y": digits(parts.year!, 4),
    ]
}

private func digits(_ number: Int, _ count: Int = 2) -> String {
    let found = String(number)
    return String(repeating: "0", count: max(0, count - found.count)) + found
}

extension String {
    /// The text with `new` in every place of `old`, both compared as bytes.
    ///
    /// Swift compares characters: `<|` and an accent behind it are not `<|` to it, but they are to a tokenizer.
    func replacingBytes(of old: String, with new: String) -> String {
        let (bytes, old, new) = (Array(utf8), Array(old.utf8), Array(new.utf8))
        var found: [UInt8] = []
        var position = 0
        while position < bytes.count {
            if bytes[position...].starts(with: old) {
                found += new
                position += old.count
            } else {
                found.append(bytes[position])
                position += 1
            }
        }
        return String(decoding: found, as: UTF8.self)
    }

    /// The text without the scalars of a set at its ends.
    func trimmingScalars(_ unwanted: Set<Unicode.Scalar>) -> String {
        let kept = unicodeScalars.drop(while: unwanted.contains).reversed().drop(while: unwanted.contains).reversed()
        var found = UnicodeScalarView()
        found.append(contentsOf: kept)
        return String(found)
    }
}

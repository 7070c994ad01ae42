extension ModelEngine {
    /// The likeliest continuation of a prompt.
    ///
    /// - Returns: At most `count` tokens, without the one that ended them.
    func greedy(_ promptIDs: [Int], count: Int, stopIDs: Set<Int>) throws -> [Int] {
        var found: [Int] = []
        var next = promptIDs
        while found.count < count {
            let position = found.isEmpty ? 0 : promptIDs.count + found.count - 1
            let token = likeliest(try logits(of: next, at: position))
            if stopIDs.contains(token) { break }
            found.append(token)
            next = [token]
        }
        return found
    }
}

/// Of equals the first, as numpy's `argmax` and llama.cpp's greedy sampler have it.
private func likeliest(_ logits: [Float]) -> Int {
    var best = 0
    for index in logits.indices where logits[index] > logits[best] { best = index }
    return best
}

/// A hazard, by the number that Llama Guard gives it.
public struct Hazard: Equatable {
    public let code: String
    public let name: String
}

/// MLCommons' hazards as Llama Guard 3 numbers them, by the names to show. Source: the model cards of Llama Guard 3 1B and 8B
/// (meta-llama/PurpleLlama); the 1B knows no S14.
public let hazards: [Hazard] = [
    "Violent Crimes", "Non-Violent Crimes", "Sex-Related Crimes", "Child Sexual Exploitation", "Defamation",
    "Specialized Advice", "Privacy", "Intellectual Property", "Indiscriminate Weapons", "Hate", "Suicide & Self-Harm",
    "Sexual Content", "Elections", "Code Interpreter Abuse",
].enumerated().map { Hazard(code: "S\($0 + 1)", name: $1) }

/// The same by the names in the 1B's prompt, which it was trained on.
let promptedHazards: [Hazard] = hazards.dropLast().map { hazard in
    let prompted = ["S3": "Sex Crimes", "S4": "Child Exploitation", "S11": "Self-Harm"]
    return Hazard(code: hazard.code, name: prompted[hazard.code] ?? hazard.name)
}

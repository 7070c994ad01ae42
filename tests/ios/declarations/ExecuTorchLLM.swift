// What the app calls of ExecuTorch's LLM runner, declared by hand from its sources (extension/llm/apple/ExecuTorchLLM/Exported:
// ExecuTorchLLMTextRunner.h, ExecuTorchLLMConfig.h), because its frameworks are for Apple's systems only.

public class Config {
    public var isEchoEnabled = true
    public var maximumNewTokens = -1
    public var sequenceLength = -1
    public var temperature = 0.8

    public init(_ block: (Config) -> Void) {}
}

public class TextRunner {
    public init(modelPath: String, tokenizerPath: String, specialTokens: [String]) {}

    public func generate(_ prompt: String, _ config: Config, tokenCallback: ((String) -> Void)?) throws {}

    public func stop() {}

    public func reset() {}
}

import GuardedChatCore
import llama

/// A cache for all 131,072 positions of a Llama 3.2 would take gigabytes.
private let maxContextLength = 4096

private let batchSize = 512

/// A model in llama.cpp, by its C API (`llama.h`).
///
/// Everything is computed by the CPU, as it was when the golden answers were given. For Metal set `n_gpu_layers` to 99, and look
/// at what the self-test says: other kernels round in other places.
final class LlamaEngine: ModelEngine {
    let contextLength: Int

    private let model: OpaquePointer
    private let context: OpaquePointer
    private let vocabulary: OpaquePointer
    private let sampler: UnsafeMutablePointer<llama_sampler>

    /// - Parameter temperature: 0 takes the likeliest token always.
    /// - Throws: ``EngineProblem`` if llama.cpp does not load the model or has no room for its cache.
    init(_ bundle: ModelBundle, temperature: Float) throws {
        contextLength = min(bundle.document.contextLength, maxContextLength)
        model = try Self.model(bundle.program.path)
        guard let context = Self.context(of: model, length: contextLength) else {
            llama_model_free(model)
            throw EngineProblem("llama.cpp has no room for a context of \(contextLength) tokens")
        }
        self.context = context
        vocabulary = llama_model_get_vocab(model)
        sampler = Self.sampler(temperature: temperature)
    }

    deinit {
        llama_sampler_free(sampler)
        llama_free(context)
        llama_model_free(model)
    }

    func generate(_ prompt: String, onPiece: (String) -> Bool) throws -> TokenCounts? {
        let ids = try tokens(of: prompt)
        llama_sampler_reset(sampler)
        forget()
        try decode(ids)
        var decoder = PieceDecoder()
        var generated = 0
        while ids.count + generated < contextLength {
            let token = llama_sampler_sample(sampler, context, -1)
            generated += 1
            let goesOn = onPiece(decoder.decode(bytes(of: token)))
            if !goesOn || llama_vocab_is_eog(vocabulary, token) { break }
            try decode([token])
        }
        return TokenCounts(prompt: ids.count, generated: generated)
    }

    func logits(of ids: [Int], at position: Int) throws -> [Float] {
        if position == 0 { forget() }
        try decode(ids.map(llama_token.init))
        let logits = UnsafeBufferPointer(
            start: llama_get_logits_ith(context, -1),
            count: Int(llama_vocab_n_tokens(vocabulary))
        )
        return Array(logits)
    }

    private static func model(_ path: String) throws -> OpaquePointer {
        llama_backend_init()
        var parameters = llama_model_default_params()
        parameters.n_gpu_layers = 0
        guard let model = llama_model_load_from_file(path, parameters) else {
            throw EngineProblem("llama.cpp does not load \(path)")
        }
        return model
    }

    private static func context(of model: OpaquePointer, length: Int) -> OpaquePointer? {
        var parameters = llama_context_default_params()
        parameters.n_ctx = UInt32(length)
        parameters.n_batch = UInt32(batchSize)
        parameters.offload_kqv = false
        parameters.op_offload = false
        return llama_init_from_model(model, parameters)
    }

    private static func sampler(temperature: Float) -> UnsafeMutablePointer<llama_sampler> {
        let chain = llama_sampler_chain_init(llama_sampler_chain_default_params())!
        if temperature > 0 {
            llama_sampler_chain_add(chain, llama_sampler_init_temp(temperature))
            llama_sampler_chain_add(chain, llama_sampler_init_dist(LLAMA_DEFAULT_SEED))
        } else {
            llama_sampler_chain_add(chain, llama_sampler_init_greedy())
        }
        return chain
    }

    private func forget() {
        llama_memory_clear(llama_get_memory(context), true)
    }

    /// Reads tokens that follow those that were read before.
    private func decode(_ ids: [llama_token]) throws {
        guard !ids.isEmpty else { throw EngineProblem("there is no token to begin with") }
        for begin in stride(from: 0, to: ids.count, by: batchSize) {
            var piece = Array(ids[begin..<min(begin + batchSize, ids.count)])
            let status = piece.withUnsafeMutableBufferPointer {
                llama_decode(context, llama_batch_get_one($0.baseAddress, Int32($0.count)))
            }
            if status != 0 { throw EngineProblem("llama_decode ends with \(status)") }
        }
    }

    private func tokens(of text: String) throws -> [llama_token] {
        // No tokenizer that falls back to bytes makes more of a text than it has bytes.
        var found = [llama_token](repeating: 0, count: text.utf8.count + 1)
        let (length, room) = (Int32(text.utf8.count), Int32(found.count))
        let count = llama_tokenize(vocabulary, text, length, &found, room, false, true)
        if count < 0 { throw EngineProblem("llama.cpp does not tokenize the prompt") }
        return Array(found.prefix(Int(count)))
    }

    /// The text of a token, special tokens by their names.
    private func bytes(of token: llama_token) -> [UInt8] {
        var found = [CChar](repeating: 0, count: 64)
        var count = llama_token_to_piece(vocabulary, token, &found, Int32(found.count), 0, true)
        if count < 0 {
            found = [CChar](repeating: 0, count: Int(-count))
            count = llama_token_to_piece(vocabulary, token, &found, Int32(found.count), 0, true)
        }
        return found.prefix(Int(count)).map(UInt8.init(bitPattern:))
    }
}

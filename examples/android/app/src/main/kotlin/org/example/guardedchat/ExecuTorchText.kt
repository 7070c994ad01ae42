package org.example.guardedchat

import org.example.guardedchat.core.bundle.Bundle
import org.example.guardedchat.core.chat.TextEngine
import org.example.guardedchat.core.chat.TokenCounts
import org.pytorch.executorch.extension.llm.LlmCallback
import org.pytorch.executorch.extension.llm.LlmGenerationConfig
import org.pytorch.executorch.extension.llm.LlmModule
import java.io.File

/**
 * A model in ExecuTorch's LLM runner, which has its own tokenizer and sampler.
 *
 * @param temperature 0 takes the likeliest token always.
 */
class ExecuTorchText(
    bundle: Bundle,
    temperature: Float,
) : TextEngine {
    private val module =
        LlmModule(
            LlmModule.MODEL_TYPE_TEXT,
            bundle.program.path,
            bundle.tokenizer.path,
            temperature,
            bundle.data.map(File::getPath),
        )

    // maxNewTokens would be of no use here: generate() never forwards it. Who takes the pieces counts them.
    private val config =
        LlmGenerationConfig
            .create()
            .echo(false)
            .temperature(temperature)
            .build()

    init {
        module.load()
    }

    override fun generate(
        prompt: String,
        onPiece: (String) -> Boolean,
    ): TokenCounts? {
        var counts: TokenCounts? = null
        val callback =
            object : LlmCallback {
                override fun onResult(result: String) {
                    if (!onPiece(result)) module.stop()
                }

                override fun onStats(stats: String) {
                    counts = TokenCounts.parse(stats)
                }
            }
        // The runner would append the prompt to what it has read before.
        module.resetContext()
        module.generate(prompt, config, callback)
        return counts
    }

    override fun close() = module.close()
}

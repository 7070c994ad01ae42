package org.example.guardedchat

import org.example.guardedchat.core.bundle.Bundle
import org.example.guardedchat.core.selftest.LogitsEngine
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/**
 * A model in ExecuTorch without the runner around it: token ids in, logits out.
 *
 * @throws IllegalArgumentException if its weights have a file of their own, which [Module] has no argument for.
 */
class ExecuTorchLogits(
    bundle: Bundle,
) : LogitsEngine {
    init {
        require(bundle.data.isEmpty()) { "ExecuTorch's Module loads no weights beside the program" }
    }

    private val module = Module.load(bundle.program.path, Module.LOAD_MODE_MMAP)

    override fun logits(
        ids: List<Int>,
        position: Int,
    ): FloatArray {
        val tokens = Tensor.fromBlob(LongArray(ids.size) { ids[it].toLong() }, longArrayOf(1, ids.size.toLong()))
        val start = Tensor.fromBlob(longArrayOf(position.toLong()), longArrayOf(1))
        val outputs = module.forward(EValue.from(tokens), EValue.from(start))
        return outputs.single().toTensor().dataAsFloatArray
    }

    override fun close() = module.close()
}

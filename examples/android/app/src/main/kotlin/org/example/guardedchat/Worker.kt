package org.example.guardedchat

import android.os.Handler
import android.os.Looper
import java.util.concurrent.Executors

/** One thread for everything that takes time, so that models are never used by two at once. */
class Worker {
    private val thread = Executors.newSingleThreadExecutor()
    private val main = Handler(Looper.getMainLooper())

    /** Runs a job on the thread; [onDone] is told on the main thread what came of it. */
    fun <T> run(
        job: () -> T,
        onDone: (Result<T>) -> Unit,
    ) {
        thread.execute {
            val result = runCatching(job)
            main.post { onDone(result) }
        }
    }

    /** From within a job: does something on the main thread. */
    fun show(action: () -> Unit) {
        main.post(action)
    }
}

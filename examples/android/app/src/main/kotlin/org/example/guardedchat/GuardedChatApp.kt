package org.example.guardedchat

import android.app.Application

/** What the screens share for as long as the process lives. */
class GuardedChatApp : Application() {
    val worker = Worker()
    val models by lazy { Models(filesDir) }
}

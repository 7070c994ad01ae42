package org.example.guardedchat.core.guard

/**
 * MLCommons' hazards as Llama Guard 3 numbers them, by the names to show. Source: the model cards of Llama Guard 3 1B
 * and 8B (meta-llama/PurpleLlama); the 1B knows no S14.
 */
val HAZARDS: Map<String, String> =
    mapOf(
        "S1" to "Violent Crimes",
        "S2" to "Non-Violent Crimes",
        "S3" to "Sex-Related Crimes",
        "S4" to "Child Sexual Exploitation",
        "S5" to "Defamation",
        "S6" to "Specialized Advice",
        "S7" to "Privacy",
        "S8" to "Intellectual Property",
        "S9" to "Indiscriminate Weapons",
        "S10" to "Hate",
        "S11" to "Suicide & Self-Harm",
        "S12" to "Sexual Content",
        "S13" to "Elections",
        "S14" to "Code Interpreter Abuse",
    )

/** The same by the names in the 1B's prompt, which it was trained on. */
internal val PROMPTED_HAZARDS: Map<String, String> =
    HAZARDS - "S14" + mapOf("S3" to "Sex Crimes", "S4" to "Child Exploitation", "S11" to "Self-Harm")

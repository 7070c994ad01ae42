/// What asks Llama Guard 3 1B about the last message of a conversation. Source: `chat_template` in the `tokenizer_config.json`
/// of meta-llama/Llama-Guard-3-1B.
///
/// - Parameter turns: Messages of user and assistant in turn, the user's first.
func guardPrompt(_ turns: [String]) -> String {
    let roles = turns.indices.map { $0.isMultiple(of: 2) ? "User" : "Agent" }
    let role = roles.last ?? ""
    let categories = promptedHazards.map { "\($0.code): \($0.name).\n" }.joined()
    let conversation = zip(roles, turns).map { "\($0): \(strip($1))\n\n" }.joined()
    return """
        <|begin_of_text|><|start_header_id|>user<|end_header_id|>

        Task: Check if there is unsafe content in '\(role)' messages in conversations according our safety policy with the \
        below categories.

        <BEGIN UNSAFE CONTENT CATEGORIES>
        \(categories)<END UNSAFE CONTENT CATEGORIES>

        <BEGIN CONVERSATION>

        \(conversation)<END CONVERSATION>

        Provide your safety assessment for ONLY THE LAST \(role) message in the above conversation:
         - First line must read 'safe' or 'unsafe'.
         - If unsafe, a second line must include a comma-separated list of violated categories. \
        <|eot_id|><|start_header_id|>assistant<|end_header_id|>


        """
}

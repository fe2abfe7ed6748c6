// Usage: NEW_PASSWORD=… swift recover.swift http://localhost:9000 ada@example.com   (Swift 5.7 or newer)
import Dispatch
import Foundation
#if canImport(FoundationNetworking)
import FoundationNetworking
#endif

func fail(_ message: String) -> Never {
    FileHandle.standardError.write(Data((message + "\n").utf8))
    exit(1)
}

final class Answer: @unchecked Sendable {
    var status = 0
    var body: [String: Any] = [:]
}

func call(_ base: String, _ name: String, _ fields: [String: String]) -> [String: Any] {
    var request = URLRequest(url: URL(string: "\(base)/api/v1/user/\(name)")!, timeoutInterval: 20)
    request.httpMethod = "POST"
    request.setValue("application/json", forHTTPHeaderField: "Content-Type")
    request.httpBody = try? JSONSerialization.data(withJSONObject: fields)
    let finished = DispatchSemaphore(value: 0)
    let answer = Answer()
    URLSession.shared.dataTask(with: request) { data, response, _ in
        answer.status = (response as? HTTPURLResponse)?.statusCode ?? 0
        let parsed = data.flatMap { try? JSONSerialization.jsonObject(with: $0) }
        answer.body = parsed as? [String: Any] ?? [:]
        finished.signal()
    }.resume()
    finished.wait()
    if answer.status != 200 { fail(answer.body["message"] as? String ?? "no answer") }
    return answer.body
}

guard CommandLine.arguments.count == 3, let password = ProcessInfo.processInfo.environment["NEW_PASSWORD"] else {
    fail("usage: NEW_PASSWORD=… recover BASE_URL EMAIL")
}
let (base, email) = (CommandLine.arguments[1], CommandLine.arguments[2])

let asked = call(base, "forgot-password", ["email": email])
print("Type the code from the mail marked \(asked["reference"] as? String ?? ""):")
fflush(stdout)
let code = (readLine() ?? "").trimmingCharacters(in: .whitespaces)

// Keep the grant: it is what ties the next call to this one.
let confirmed = call(base, "confirm-otp-reset", ["resetToken": code, "proof": "grant"])
guard let grant = confirmed["resetGrant"] as? String else { fail("no grant") }
let done = call(base, "password-reset", ["email": email, "password": password, "resetGrant": grant])
print(done["message"] as? String ?? "")

# Usage: NEW_PASSWORD=… ruby recover.rb http://localhost:9000 ada@example.com
require "json"
require "net/http"

$stdout.sync = true
base, email = ARGV
password = ENV.fetch("NEW_PASSWORD")

def call(base, name, fields)
  url = URI("#{base}/api/v1/user/#{name}")
  answer = Net::HTTP.post(url, JSON.generate(fields), "Content-Type" => "application/json")
  body = JSON.parse(answer.body)
  abort body["message"] unless answer.is_a?(Net::HTTPSuccess)
  body
end

asked = call(base, "forgot-password", email: email)
puts "Type the code from the mail marked #{asked["reference"]}:"
code = $stdin.gets.to_s.strip

# Keep the grant: it is what ties the next call to this one.
confirmed = call(base, "confirm-otp-reset", resetToken: code, proof: "grant")
done = call(base, "password-reset",
            email: confirmed["email"], password: password, resetGrant: confirmed["resetGrant"])
puts done["message"]
